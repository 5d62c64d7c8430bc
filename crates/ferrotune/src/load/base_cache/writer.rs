//! A file of the cache, written linear by linear: nothing but the linear at hand is in memory.
//!
//! A program that is killed leaves the half-written file and a log beside it, with a line for each linear that is whole and
//! SHA-256 of its bytes. The next one goes on after the last line that fits.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ferrotune_kernels::quant::Weight;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::formats::atomic::{hidden, sync_folder, temporary_name};
use crate::formats::hash::hex;
use crate::formats::quantized;
use crate::formats::safetensors::{Dtype, OutTensor, SafeFile};
use crate::{Error, Result};

/// Name of the last tensor.
pub(super) const DIGEST: &str = "digest";

/// Its size.
pub(super) const DIGEST_BYTES: usize = 32;

/// Where linears start.
const PAGE: u64 = 4096;

/// Where tensors start.
const LINE: u64 = 64;

/// Room in the header for the tensors of a linear. The header comes first in a file, and is known last.
const HEADER: u64 = 3072;

/// Writes a file of the cache under a hidden name.
pub(crate) struct BaseWriter {
    file: Unnamed,
    out: BufWriter<File>,
    /// The hash of the linear at hand.
    hash: Sha256,
    /// Linears that are whole.
    whole: BTreeSet<String>,
    header: Map<String, Value>,
    /// Bytes kept free for the header.
    room: u64,
    /// Bytes of data so far.
    at: u64,
    pads: usize,
    failed: Option<Error>,
}

/// A line of the log.
#[derive(Serialize, Deserialize)]
struct Whole {
    linear: String,
    /// Where it ends, and the gaps before that.
    end: u64,
    pads: usize,
    sha256: String,
    tensors: Map<String, Value>,
}

/// A file that is removed unless it gets its name, or the program is killed.
#[derive(Debug)]
pub(super) struct Unnamed {
    hidden: PathBuf,
    /// Its log, if another program may go on with it; locked as long as this one does.
    log: Option<(PathBuf, File)>,
    named: bool,
}

impl Unnamed {
    /// Syncs the file and gives it its name.
    pub(super) fn keep(mut self, path: &Path) -> Result<()> {
        let io = |e| Error::io(path, e);
        OpenOptions::new().write(true).open(&self.hidden).and_then(|file| file.sync_all()).map_err(io)?;
        fs::rename(&self.hidden, path).map_err(io)?;
        self.named = true;
        sync_folder(path);
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.named {
            let _ = fs::remove_file(&self.hidden);
        }
        if let Some((path, _)) = &self.log {
            let _ = fs::remove_file(path);
        }
    }
}

/// The log of a half-written file, locked; `None` if another program writes it now.
fn lock(path: &Path) -> Option<File> {
    let log = OpenOptions::new().read(true).append(true).create(true).open(path).ok()?;
    log.try_lock().ok()?;
    // The one that had the lock may have removed the file between the two lines above.
    let (own, named) = (log.metadata().ok()?, fs::metadata(path).ok()?);
    #[cfg(unix)]
    let same = std::os::unix::fs::MetadataExt::ino(&own) == std::os::unix::fs::MetadataExt::ino(&named);
    #[cfg(not(unix))]
    let same = own.len() == named.len();
    same.then_some(log)
}

impl BaseWriter {
    /// Starts the file that is to become `path`, or goes on with what a killed program left of it.
    pub(super) fn create(path: &Path, linears: usize) -> Result<Self> {
        let io = |e| Error::io(path, e);
        let log = hidden(path, ".log.tmp")?;
        let (hidden, log) = match lock(&log) {
            Some(file) => (hidden(path, ".tmp")?, Some((log, file))),
            None => (temporary_name(path)?, None),
        };
        let mut options = OpenOptions::new();
        let out = options.read(true).write(true).create(true).truncate(false).open(&hidden).map_err(io)?;
        let file = Unnamed { hidden, log, named: false };
        let room = (HEADER * (linears as u64 + 2)).next_multiple_of(PAGE);
        let out = BufWriter::with_capacity(1 << 16, out);
        let (hash, whole, header) = (Sha256::new(), BTreeSet::new(), Map::new());
        let mut writer = BaseWriter { file, out, hash, whole, header, room, at: 0, pads: 0, failed: None };
        writer.go_on().map_err(io)?;
        Ok(writer)
    }

    /// Takes over the linears that are whole, and drops what comes after them.
    fn go_on(&mut self) -> std::io::Result<()> {
        let mut text = String::new();
        if let Some((_, log)) = &mut self.file.log {
            // A log that is no text has no line that fits.
            let _ = log.seek(SeekFrom::Start(0)).and_then(|_| log.read_to_string(&mut text));
        }
        let mut kept = 0;
        self.out.seek(SeekFrom::Start(self.room))?;
        for line in text.split_inclusive('\n') {
            let Ok(whole) = serde_json::from_str::<Whole>(line) else { break };
            if !line.ends_with('\n')
                || whole.end < self.at
                || self.hash_of(whole.end - self.at)? != whole.sha256
            {
                break;
            }
            (self.at, self.pads) = (whole.end, whole.pads);
            self.header.extend(whole.tensors);
            self.whole.insert(whole.linear);
            kept += line.len() as u64;
        }
        if let Some((_, log)) = &mut self.file.log {
            log.set_len(kept)?;
        }
        self.out.get_ref().set_len(self.room + self.at)?;
        self.out.seek(SeekFrom::Start(self.room + self.at))?;
        Ok(())
    }

    /// SHA-256 of the next bytes of the file.
    fn hash_of(&mut self, bytes: u64) -> std::io::Result<String> {
        let mut hash = Sha256::new();
        let mut piece = vec![0; 1 << 20];
        let mut part = self.out.get_ref().take(bytes);
        loop {
            match part.read(&mut piece)? {
                0 => return Ok(hex(&hash.finalize())),
                read => hash.update(&piece[..read]),
            }
        }
    }

    /// Whether a linear is there already.
    pub(crate) fn has(&self, linear: &str) -> bool {
        self.whole.contains(linear)
    }

    /// Whether a write failed; the others are then left out, and [`BaseWriter::finish`] gives the error.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Appends the quantized weight of a linear, unless it is there already.
    pub(crate) fn add(&mut self, linear: &str, weight: &Weight) {
        if self.failed.is_none()
            && !self.has(linear)
            && let Err(e) = self.try_add(linear, weight)
        {
            self.failed = Some(e);
        }
    }

    fn try_add(&mut self, linear: &str, weight: &Weight) -> Result<()> {
        let Some(tensors) = quantized::tensors(&format!("{linear}.weight"), weight, "float32") else {
            return Err(Error::tensor(&self.file.hidden, linear, "not quantized"));
        };
        let mut names = vec![self.align(PAGE)?];
        for (name, tensor) in tensors {
            names.push(self.align(LINE)?);
            names.push(Some(name.clone()));
            self.put(name, &tensor)?;
        }
        self.log(linear, names.into_iter().flatten().collect())
    }

    /// Notes that a linear of these tensors is whole.
    fn log(&mut self, linear: &str, names: Vec<String>) -> Result<()> {
        let sha256 = hex(&self.hash.finalize_reset());
        let Some((path, log)) = &mut self.file.log else { return Ok(()) };
        let tensors = names.into_iter().filter_map(|n| self.header.get(&n).map(|about| (n, about.clone())));
        let (linear, tensors) = (linear.to_string(), tensors.collect());
        let line = json!(Whole { linear, end: self.at, pads: self.pads, sha256, tensors });
        // Never before the bytes that it speaks of.
        let written = self.out.flush().and_then(|()| writeln!(log, "{line}"));
        written.map_err(|e| Error::io(path, e))
    }

    /// Fills the gap before the next place of this kind; the name of what fills it.
    fn align(&mut self, to: u64) -> Result<Option<String>> {
        let gap = (self.at.next_multiple_of(to) - self.at) as usize;
        if gap == 0 {
            return Ok(None);
        }
        self.pads += 1;
        let name = format!("pad.{}", self.pads);
        self.put(name.clone(), &OutTensor::bytes(Dtype::U8, &[gap], &vec![0; gap]))?;
        Ok(Some(name))
    }

    fn put(&mut self, name: String, tensor: &OutTensor<'_>) -> Result<()> {
        let end = self.at + tensor.nbytes() as u64;
        let data = tensor.content();
        self.hash.update(&data);
        self.out.write_all(&data).map_err(|e| Error::io(&self.file.hidden, e))?;
        let about = json!({"dtype": tensor.dtype(), "shape": tensor.shape(), "data_offsets": [self.at, end]});
        self.header.insert(name, about);
        self.at = end;
        Ok(())
    }

    /// Writes header and digest. The file can be read then, but has no name yet.
    pub(super) fn finish(mut self, about: Map<String, Value>) -> Result<(SafeFile, Unnamed)> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        self.align(LINE)?;
        self.put(DIGEST.into(), &OutTensor::bytes(Dtype::U8, &[DIGEST_BYTES], &[0; DIGEST_BYTES]))?;
        self.header.insert("__metadata__".into(), about.into());
        let (room, mut text) = (self.room as usize - 8, Value::from(self.header).to_string());
        if text.len() > room {
            let problem = format!("{} bytes of header, {room} are kept free", text.len());
            return Err(Error::file(&self.file.hidden, problem));
        }
        // Spaces at its end belong to the header.
        text.extend(std::iter::repeat_n(' ', room - text.len()));
        let path = self.file.hidden.clone();
        let io = |e| Error::io(&path, e);
        let mut out = self.out.into_inner().map_err(|e| io(e.into_error()))?;
        out.seek(SeekFrom::Start(0)).map_err(io)?;
        out.write_all(&(room as u64).to_le_bytes()).map_err(io)?;
        out.write_all(text.as_bytes()).map_err(io)?;
        let file = SafeFile::open(&path)?;
        let digest = super::digest(&file);
        out.seek(SeekFrom::End(-(DIGEST_BYTES as i64))).map_err(io)?;
        out.write_all(&digest).map_err(io)?;
        Ok((file, self.file))
    }
}
