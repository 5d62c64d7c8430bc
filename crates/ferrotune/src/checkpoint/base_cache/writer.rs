//! A file of the cache, written linear by linear: nothing but the linear at hand is in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ::safetensors::tensor::View;
use ferrotune_kernels::quant::{Storage, Weight};
use serde_json::{Map, Value, json};

use super::super::atomic::{sync_folder, temporary_name};
use super::super::safetensors::{Dtype, OutTensor, SafeFile};
use super::super::{bnb4, bnb8};
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
    header: Map<String, Value>,
    /// Bytes kept free for the header.
    room: u64,
    /// Bytes of data so far.
    at: u64,
    pads: usize,
    failed: Option<Error>,
}

/// A file that is removed unless it gets its name.
#[derive(Debug)]
pub(super) struct Unnamed {
    hidden: PathBuf,
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
    }
}

impl BaseWriter {
    pub(super) fn create(path: &Path, linears: usize) -> Result<Self> {
        let hidden = temporary_name(path)?;
        let io = |e| Error::io(path, e);
        let mut out = OpenOptions::new().read(true).write(true).create_new(true).open(&hidden).map_err(io)?;
        let file = Unnamed { hidden, named: false };
        let room = (HEADER * (linears as u64 + 2)).next_multiple_of(PAGE);
        out.seek(SeekFrom::Start(room)).map_err(io)?;
        let out = BufWriter::with_capacity(1 << 16, out);
        Ok(BaseWriter { file, out, header: Map::new(), room, at: 0, pads: 0, failed: None })
    }

    /// Whether a write failed; the others are then left out, and [`BaseWriter::finish`] gives the error.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// Appends the quantized weight of a linear.
    pub(crate) fn add(&mut self, linear: &str, weight: &Weight) {
        if self.failed.is_none()
            && let Err(e) = self.try_add(linear, weight)
        {
            self.failed = Some(e);
        }
    }

    fn try_add(&mut self, linear: &str, weight: &Weight) -> Result<()> {
        let tensors = match weight.storage() {
            Storage::FourBit(bits) => {
                let name = format!("{linear}.weight");
                bnb4::tensors(&name, weight.rows(), weight.cols(), bits, "float32")
            }
            Storage::Int8(rows) => bnb8::tensors(linear, rows),
            _ => return Err(Error::tensor(&self.file.hidden, linear, "not quantized")),
        };
        self.align(PAGE)?;
        for (name, tensor) in tensors {
            self.align(LINE)?;
            self.put(name, &tensor)?;
        }
        Ok(())
    }

    fn align(&mut self, to: u64) -> Result<()> {
        let gap = (self.at.next_multiple_of(to) - self.at) as usize;
        if gap == 0 {
            return Ok(());
        }
        self.pads += 1;
        self.put(format!("pad.{}", self.pads), &OutTensor::bytes(Dtype::U8, &[gap], &vec![0; gap]))
    }

    fn put(&mut self, name: String, tensor: &OutTensor<'_>) -> Result<()> {
        let end = self.at + tensor.nbytes() as u64;
        self.out.write_all(&tensor.data()).map_err(|e| Error::io(&self.file.hidden, e))?;
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
