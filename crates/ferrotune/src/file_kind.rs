//! What a file is whose bytes are not the text that was expected.

/// The kind of a file by its first bytes, with an article; `None` if they say nothing.
pub(crate) fn detect(bytes: &[u8]) -> Option<&'static str> {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"PAR1", "a Parquet file (magic PAR1)"),
        (b"PARE", "an encrypted Parquet file (magic PARE)"),
        (b"ARROW1", "an Arrow file"),
        (b"FEA1", "a Feather file"),
        (b"\xff\xff\xff\xff", "an Arrow stream"),
        (b"\x1f\x8b", "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"PK\x03\x04", "a zip file"),
        (b"PK\x05\x06", "an empty zip file"),
        (b"\xfd7zXZ\0", "an xz file"),
        (b"BZh", "a bzip2 file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"\x89PNG", "a PNG image"),
        (b"\xff\xd8\xff", "a JPEG image"),
        (b"%PDF", "a PDF"),
        (b"GGUF", "a GGUF model"),
        (b"\x89HDF", "an HDF5 file"),
        (b"\x93NUMPY", "a NumPy file"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"Obj\x01", "an Avro file"),
        (b"ORC", "an ORC file"),
        (b"\x80\x04", "a Python pickle"),
        (b"\xff\xfe\0\0", "UTF-32 text"),
        (b"\0\0\xfe\xff", "UTF-32 text"),
    ];
    if let Some((_, kind)) = KNOWN.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(kind);
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Some("a tar file");
    }
    utf16(bytes).map(|_| "UTF-16 text")
}

/// The order of bytes in UTF-16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// The low byte first, as Windows writes it.
    Little,
    /// The high byte first.
    Big,
}

/// Whether bytes are UTF-16: by the mark, or as it begins with ASCII, of which every second byte is zero.
pub(crate) fn utf16(bytes: &[u8]) -> Option<ByteOrder> {
    if bytes.starts_with(b"\xff\xfe\0\0") || bytes.starts_with(b"\0\0\xfe\xff") {
        return None;
    }
    match bytes {
        [0xff, 0xfe, ..] => return Some(ByteOrder::Little),
        [0xfe, 0xff, ..] => return Some(ByteOrder::Big),
        _ => {}
    }
    let start = &bytes[..bytes.len().min(16)];
    let zeros = |odd: usize| start.iter().skip(odd).step_by(2).filter(|&&b| b == 0).count();
    match start.len() >= 4 {
        true if zeros(1) * 2 == start.len() && zeros(0) == 0 => Some(ByteOrder::Little),
        true if zeros(0) * 2 >= start.len() && zeros(1) == 0 => Some(ByteOrder::Big),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::detect;

    #[test]
    fn kinds_are_told_by_their_first_bytes() {
        assert_eq!(detect(b"PAR1\x15\x04"), Some("a Parquet file (magic PAR1)"));
        assert_eq!(detect(b"\xff\xfe{\0"), Some("UTF-16 text"));
        assert_eq!(detect(b"{\0\"\0a\0"), Some("UTF-16 text"));
        assert_eq!(detect(b"\0{\0\"\0a"), Some("UTF-16 text"));
        for text in [&b"{\"text\": 1}"[..], b"", b"\0", b"{\0\xffa", b"[[1]]", b"PA"] {
            assert_eq!(detect(text), None, "{text:?}");
        }
    }
}
