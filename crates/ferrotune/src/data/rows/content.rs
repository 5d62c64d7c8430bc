//! What lies below rows: compression is undone and text becomes UTF-8, by a file's first bytes and not by its name.

use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use encoding_rs::{Decoder, DecoderResult, UTF_16BE, UTF_16LE};
use flate2::bufread::MultiGzDecoder;

use super::not_utf8;
use crate::file_kind::{ByteOrder, utf16};
use crate::{Error, Result};

/// Bytes by which a file's kind is told.
const HEAD: usize = 1 << 16;

/// The content of a file, read from its beginning: neither compressed nor in UTF-16, and without a byte-order mark.
pub(super) struct Content<'a> {
    /// Its first bytes.
    head: Vec<u8>,
    /// What follows them.
    rest: Box<dyn Read + 'a>,
    /// Whether a file on the disk has these bytes, so that it may be read at any place.
    is_file: bool,
}

impl<'a> Content<'a> {
    /// The content of what `raw` reads; `is_file` says whether that is a file.
    pub(super) fn new(raw: impl Read + 'a, is_file: bool) -> io::Result<Content<'a>> {
        let mut content = Content::peeked(Box::new(raw), is_file)?;
        if let Some(name) = content.compression() {
            let packed = BufReader::with_capacity(HEAD, content.into_read());
            let plain: Box<dyn Read + 'a> = match name {
                GZIP => Box::new(MultiGzDecoder::new(packed)),
                _ => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
            };
            content = Content::peeked(Box::new(Decompressed { plain, name }), false)?;
        }
        if let Some(order) = utf16(&content.head) {
            content = Content::peeked(Box::new(Utf16::new(content.into_read(), order)), false)?;
        }
        if content.head.starts_with(UTF8_MARK) {
            content.head.drain(..UTF8_MARK.len());
            content.is_file = false;
        }
        Ok(content)
    }

    fn peeked(mut rest: Box<dyn Read + 'a>, is_file: bool) -> io::Result<Content<'a>> {
        let mut head = Vec::new();
        rest.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
        Ok(Content { head, rest, is_file })
    }

    fn compression(&self) -> Option<&'static str> {
        match self.head.as_slice() {
            [0x1f, 0x8b, ..] => Some(GZIP),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
            _ => None,
        }
    }

    /// Its first bytes.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// Whether the content is a file as it lies on the disk.
    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    fn into_read(self) -> Box<dyn Read + 'a> {
        Box::new(Cursor::new(self.head).chain(self.rest))
    }

    /// All of it, to read.
    pub(super) fn into_lines(self) -> Box<dyn BufRead + 'a> {
        Box::new(BufReader::with_capacity(HEAD, self.into_read()))
    }

    /// All of it in memory.
    pub(super) fn into_bytes(mut self) -> io::Result<Vec<u8>> {
        self.rest.read_to_end(&mut self.head)?;
        Ok(self.head)
    }

    /// All of it in memory, which must be UTF-8; `path` is for messages.
    pub(super) fn into_text(self, path: &Path) -> Result<String> {
        let bytes = self.into_bytes().map_err(|e| Error::io(path, e))?;
        String::from_utf8(bytes).map_err(|e| {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            not_utf8(path, 1 + before.iter().filter(|b| **b == b'\n').count())
        })
    }
}

const GZIP: &str = "gzip";
const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Whether a file's name has one of these endings, perhaps before one of compression.
pub(super) fn has_ending(path: &Path, endings: &[&str]) -> bool {
    let ending = |path: &Path| path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let own = match ending(path).as_deref() {
        Some("gz" | "gzip" | "zst" | "zstd") => ending(&path.with_extension("")),
        _ => ending(path),
    };
    own.is_some_and(|own| endings.contains(&own.as_str()))
}

/// Says in its errors what was damaged.
struct Decompressed<R> {
    plain: R,
    name: &'static str,
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.plain.read(buffer).map_err(|e| {
            let problem = format!("the {} data is damaged or cut off ({e})", self.name);
            io::Error::new(io::ErrorKind::InvalidData, problem)
        })
    }
}

/// UTF-16 as UTF-8. Halves of surrogate pairs are errors, not replaced.
struct Utf16<R> {
    inner: R,
    decoder: Decoder,
    /// Bytes that were read and not decoded.
    raw: Vec<u8>,
    /// Text that was decoded and not given.
    text: Cursor<Vec<u8>>,
    ended: bool,
}

impl<R: Read> Utf16<R> {
    fn new(inner: R, order: ByteOrder) -> Self {
        let encoding = match order {
            ByteOrder::Little => UTF_16LE,
            ByteOrder::Big => UTF_16BE,
        };
        let decoder = encoding.new_decoder_with_bom_removal();
        Utf16 { inner, decoder, raw: Vec::new(), text: Cursor::default(), ended: false }
    }

    /// Decodes the next part of the text.
    fn decode(&mut self) -> io::Result<()> {
        self.raw.clear();
        self.ended = self.inner.by_ref().take(HEAD as u64).read_to_end(&mut self.raw)? == 0;
        // A unit of two bytes becomes three at most.
        let mut text = vec![0; 2 * self.raw.len() + 16];
        let (result, _, written) =
            self.decoder.decode_to_utf8_without_replacement(&self.raw, &mut text, self.ended);
        if let DecoderResult::Malformed(..) = result {
            let problem = "the text is not UTF-16 throughout: half of a surrogate pair, or half of a unit";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        text.truncate(written);
        self.text = Cursor::new(text);
        Ok(())
    }
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.text.read(buffer)?;
            if n > 0 || self.ended || buffer.is_empty() {
                return Ok(n);
            }
            self.decode()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn content(raw: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Content::new(raw, false)?.into_lines().read_to_string(&mut text)?;
        Ok(text)
    }

    fn gzip(raw: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(raw).unwrap();
        writer.finish().unwrap()
    }

    fn utf16(text: &str, order: ByteOrder) -> Vec<u8> {
        let bytes = |unit: u16| match order {
            ByteOrder::Little => unit.to_le_bytes(),
            ByteOrder::Big => unit.to_be_bytes(),
        };
        text.encode_utf16().flat_map(bytes).collect()
    }

    /// Long enough that characters lie across the borders of parts.
    fn text() -> String {
        "{\"text\": \"ä € 😀 line\"}\r\n".repeat(9000)
    }

    #[test]
    fn every_form_of_a_text_is_the_same_text() {
        let text = text();
        let plain = text.as_bytes();
        let marked = [UTF8_MARK, plain].concat();
        let two_members = [gzip(&plain[..100]), gzip(&plain[100..])].concat();
        let zstd = zstd::encode_all(plain, 1).unwrap();
        let with_mark = utf16(&format!("\u{feff}{text}"), ByteOrder::Little);
        for raw in [
            plain.to_vec(),
            marked,
            gzip(plain),
            two_members,
            zstd,
            gzip(&with_mark),
            zstd::encode_all(&utf16(&text, ByteOrder::Big)[..], 1).unwrap(),
            utf16(&format!("\u{feff}{text}"), ByteOrder::Big),
            utf16(&text, ByteOrder::Little),
            with_mark,
        ] {
            assert!(content(&raw).unwrap() == text, "{:?}", &raw[..4]);
        }
        assert_eq!(content(b"").unwrap(), "");
    }

    #[test]
    fn damage_is_an_error() {
        let text = text();
        for (whole, words) in [
            (gzip(text.as_bytes()), "the gzip data"),
            (zstd::encode_all(text.as_bytes(), 1).unwrap(), "zstd"),
        ] {
            for cut in [5, whole.len() / 2, whole.len() - 1] {
                let error = content(&whole[..cut]).unwrap_err().to_string();
                assert!(error.contains(words), "{cut}: {error}");
            }
        }
        let mut halves = utf16(&text, ByteOrder::Little);
        halves.pop();
        assert!(content(&halves).unwrap_err().to_string().contains("UTF-16"));
        let lone = [utf16(&text, ByteOrder::Little), vec![0x3d, 0xd8, b'a', 0]].concat();
        assert!(content(&lone).unwrap_err().to_string().contains("surrogate"));
    }
}
