//! Quantized bases kept on disk: a base is quantized once and only mapped at every later start.
//!
//! A file of the cache is a safetensors file with the tensors of [`crate::formats::quantized`], the linears in the order of the layers, so that one after the other can be read ahead and dropped. Each linear starts on
//! a page of 4 KiB, each of its tensors at a multiple of 64 bytes; tensors named `pad.N` fill the gaps, which
//! safetensors does not allow. The last tensor, `digest`, is SHA-256 over the header and 64 blocks of 4 KiB at even
//! distances: a file that was cut off, written over or is another's is recognised without reading all of it, single
//! flipped bits between these blocks are not.
//!
//! A file's name is a hash of everything that decides its content: the storage asked for, the versions below, and the
//! model's fingerprint, which covers every byte of its weight files.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::formats::hash::hex;
use crate::formats::kept_files::KeptFiles;
use crate::formats::safetensors::{SafeFile, Shards};
use crate::formats::{Checkpoint, quantized};
use crate::load::BaseForm;
use crate::{Error, Result};

mod writer;

pub(crate) use writer::BaseWriter;

/// Version of the file's layout.
const FORMAT: u32 = 1;

/// Version of the quantizers: to be raised when they give other bytes.
const QUANTIZER: u32 = 1;

/// Blocks of 4 KiB that the digest covers.
const BLOCKS: usize = 64;

/// Keys of the header's metadata.
const ABOUT: [&str; 3] = ["key", "base", "storage"];

/// A folder of quantized bases.
#[derive(Debug)]
pub struct BaseCache {
    kept: KeptFiles,
    /// Files that are on their way to the disk.
    writes: Mutex<Vec<JoinHandle<()>>>,
}

impl BaseCache {
    /// A cache in `folder`, which need not exist yet, whose files take up to `limit` bytes; of more, those that were
    /// not used for longest are removed.
    pub fn new(folder: &Path, limit: u64) -> Self {
        BaseCache { kept: files_in(folder, limit), writes: Mutex::default() }
    }

    /// The place of a base in a form; none for forms of which nothing is quantized.
    pub(crate) fn entry(
        &self,
        threads: &Threads,
        checkpoint: &Checkpoint,
        form: impl Into<BaseForm>,
    ) -> Result<Option<Entry<'_>>> {
        let Some(storage) = form.into().quantized_name() else { return Ok(None) };
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT} {QUANTIZER} {storage} {}", checkpoint.fingerprint(threads)?));
        let key = hex(&hash.finalize());
        let path = self.kept.path(&key);
        let base = checkpoint.path().display().to_string();
        Ok(Some(Entry { cache: self, path, about: [key, base, storage] }))
    }

    /// Waits until all that was written is on the disk.
    pub fn flush(&self) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        for write in writes.drain(..) {
            // A file that could not be kept is made again at the next start.
            let _ = write.join();
        }
    }
}

impl Drop for BaseCache {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The place of one base in one storage.
pub(crate) struct Entry<'c> {
    cache: &'c BaseCache,
    path: PathBuf,
    /// Values of [`ABOUT`].
    about: [String; 3],
}

impl Entry<'_> {
    /// The base, if it is there; an error if what is there is not it.
    pub(crate) fn open(&self) -> Result<Option<CachedBase>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let file = SafeFile::open(&self.path)?;
        if file.metadata().get(ABOUT[0]) != Some(&self.about[0]) {
            return Err(Error::file(&self.path, "it holds another base than its name says"));
        }
        if file.get(writer::DIGEST).map(|t| t.bytes.as_slice()) != Some(digest(&file).as_slice()) {
            return Err(Error::file(&self.path, "its content does not fit its digest"));
        }
        KeptFiles::used(&self.path);
        Ok(Some(CachedBase { shards: Shards::single(file) }))
    }

    /// Starts a new file for up to `linears` linears.
    pub(crate) fn create(&self, linears: usize) -> Result<BaseWriter> {
        self.cache.kept.make_folder()?;
        BaseWriter::create(&self.path, linears)
    }

    /// Ends the file. It can be used at once; syncing it and giving it its name goes on beside the work.
    pub(crate) fn finish(&self, writer: BaseWriter) -> Result<CachedBase> {
        let values = self.about.iter().map(|text| Value::from(text.as_str()));
        let about = ABOUT.into_iter().map(str::to_string).zip(values).collect();
        let (file, unnamed) = writer.finish(about)?;
        let (path, kept) = (self.path.clone(), self.cache.kept.clone());
        let write = std::thread::Builder::new().name("keep base".into()).spawn(move || {
            if unnamed.keep(&path).is_ok() {
                kept.shrink(&path);
            }
        });
        // Without a thread it is made again at the next start.
        self.cache.writes.lock().unwrap_or_else(PoisonError::into_inner).extend(write);
        Ok(CachedBase { shards: Shards::single(file) })
    }
}

/// A quantized base whose linears stay in the mapped file.
pub(crate) struct CachedBase {
    shards: Shards,
}

impl CachedBase {
    /// The weight of a linear; none if it is not there in this shape.
    pub(crate) fn weight(&self, linear: &str, rows: usize, cols: usize) -> Option<Weight> {
        quantized::read(&self.shards, &format!("{linear}.weight"), rows, cols).ok().flatten()
    }
}

/// What the last tensor of the file holds, if the file is as it was written.
fn digest(file: &SafeFile) -> [u8; 32] {
    let mut hash = Sha256::new();
    file.hash(&mut hash, BLOCKS, writer::DIGEST_BYTES);
    hash.finalize().into()
}

/// A file of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The file.
    pub path: PathBuf,
    /// Path of the model that it was made from; empty if the file is not readable as one of this cache.
    pub base: String,
    /// The storage, such as `nf4, blocks of 64, double`.
    pub storage: String,
    /// Its size.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// The files of the cache in `folder`, the one that was used last first; none if there is no folder.
pub fn list(folder: &Path) -> Result<Vec<Kept>> {
    let mut all: Vec<Kept> = files_in(folder, 0)
        .files()?
        .into_iter()
        .map(|(path, bytes, used)| {
            let about = SafeFile::open(&path).map(|f| f.metadata().clone()).unwrap_or_default();
            let text = |key: &str| about.get(key).cloned().unwrap_or_default();
            Kept { base: text(ABOUT[1]), storage: text(ABOUT[2]), path, bytes, used }
        })
        .collect();
    all.sort_by(|a, b| b.used.cmp(&a.used).then(a.path.cmp(&b.path)));
    Ok(all)
}

/// Removes all files of the cache in `folder`, half-written ones too; gives the bytes that are free now.
pub fn clear(folder: &Path) -> Result<u64> {
    files_in(folder, 0).clear()
}

fn files_in(folder: &Path, limit: u64) -> KeptFiles {
    KeptFiles { folder: folder.to_path_buf(), extension: "safetensors", limit }
}

#[cfg(test)]
mod tests;
