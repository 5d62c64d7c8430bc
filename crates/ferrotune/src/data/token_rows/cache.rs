//! Tokenized data kept on disk: data of some size is tokenized once and only opened at every later start.
//!
//! A file holds the words of all rows, what is known of each row and of each example, and a report, in this order; its end
//! says where these parts are and has their SHA-256. The words are checked row by row when they are read. A file's name is a
//! hash of everything that decides its content.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ferrotune_kernels::Threads;
use sha2::{Digest, Sha256};

use super::{RowMeta, RowStore, Words};
use crate::formats::atomic::{scratch, sync_folder, temporary_name};
use crate::formats::hash::{Hashing, HashingReader, hex};
use crate::formats::kept_files::KeptFiles;
use crate::{Error, Result};

/// The last bytes of a whole file.
const MAGIC: &[u8; 8] = b"FTROWS2\n";

/// Three places, a SHA-256 in hexadecimal and the magic.
const FOOTER: usize = PLACES + 64 + 8;
const PLACES: usize = 3 * 8;

/// Tokens of more bytes go into a file.
const IN_MEMORY: usize = 64 << 20;

/// Files of fewer bytes are tokenized again at every start: that takes no longer than to look for what was kept.
const KEPT_FROM: u64 = 2 << 20;

/// A folder of tokenized data.
#[derive(Clone, Debug)]
pub struct TokenCache {
    kept: KeptFiles,
    /// Whether files get names, so that they are found at the next start.
    named: bool,
    /// Data of fewer bytes is not looked for.
    pub(crate) kept_from: u64,
    /// Tokens of more bytes go into a file.
    pub(crate) in_memory: usize,
}

/// What a file holds beside the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What is known of each example.
    pub(crate) examples: Vec<u8>,
    /// What was read.
    pub(crate) about: Vec<u8>,
}

/// A file of the cache, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTokens {
    /// The file.
    pub path: PathBuf,
    /// Its rows; 0 if it is not whole.
    pub rows: usize,
    /// Its size.
    pub bytes: u64,
    /// When it was last used.
    pub used: std::time::SystemTime,
}

impl TokenCache {
    /// A cache in `folder`, which need not exist yet, whose files take up to `limit` bytes; of more, those that were
    /// not used for longest are removed.
    pub fn new(folder: &Path, limit: u64) -> Self {
        let kept = KeptFiles { folder: folder.to_path_buf(), extension: "tokens", limit };
        TokenCache { kept, named: true, kept_from: KEPT_FROM, in_memory: IN_MEMORY }
    }

    /// A cache with other bounds: data whose files have fewer than `kept_from` bytes is not looked for, and tokens go into
    /// a file when they take more than `in_memory` bytes.
    #[must_use]
    pub fn with_bounds(self, kept_from: u64, in_memory: usize) -> Self {
        TokenCache { kept_from, in_memory, ..self }
    }

    /// The folder as a place for files that nothing is kept of.
    pub(crate) fn unnamed(&self) -> Self {
        TokenCache { named: false, kept_from: u64::MAX, ..self.clone() }
    }

    /// Its files, the one that was used last first.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<KeptTokens>> {
        let about = |(path, bytes, used): (PathBuf, _, _)| {
            let rows = read(&path).map_or(0, |(store, _)| store.rows.len());
            KeptTokens { path, rows, bytes, used }
        };
        let mut all: Vec<KeptTokens> = self.kept.files()?.into_iter().map(about).collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then(a.path.cmp(&b.path)));
        Ok(all)
    }

    /// Removes all files; gives the bytes that are free now.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn clear(&self) -> Result<u64> {
        self.kept.clear()
    }

    /// What was kept under this key. A file that is not whole is as good as none.
    pub(crate) fn open(&self, key: &str) -> Option<(RowStore, Parts)> {
        let path = self.kept.path(key);
        let found = read(&path)?;
        KeptFiles::used(&path);
        Some(found)
    }

    /// A new file under a hidden name, or under none.
    pub(crate) fn begin(&self) -> Result<(File, PathBuf)> {
        if !self.named {
            return Ok((scratch(&self.kept.folder)?, self.kept.folder.clone()));
        }
        self.kept.make_folder()?;
        let path = temporary_name(&self.kept.folder.join("rows"))?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        Ok((file.map_err(|e| Error::io(&path, e))?, path))
    }

    /// Ends the file that the rows are in and gives it its name. One that cannot be kept loses its name and can be read
    /// all the same.
    pub(crate) fn keep(&self, key: &str, store: &mut RowStore, parts: &Parts) {
        let Words::File(file, path) = &mut store.words else { return };
        if !self.named {
            return;
        }
        let to = self.kept.path(key);
        let named = append(file, &store.rows, &store.sha256, &store.taught, parts)
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&*path, &to));
        match named {
            Ok(()) => {
                sync_folder(&to);
                self.kept.shrink(&to);
                *path = to;
            }
            Err(_) => drop(fs::remove_file(&*path)),
        }
    }
}

/// What stands before the report: the rows' hash and the taught tokens, whose number is known by the length.
fn head(sha256: &str, taught: &[u32]) -> Vec<u8> {
    let mut head = sha256.as_bytes().to_vec();
    head.extend((taught.len() as u32).to_le_bytes());
    head.extend(taught.iter().flat_map(|id| id.to_le_bytes()));
    head
}

fn append(
    file: &mut File,
    rows: &[RowMeta],
    sha256: &str,
    taught: &[u32],
    parts: &Parts,
) -> std::io::Result<()> {
    let words = file.seek(SeekFrom::End(0))?;
    let mut file = BufWriter::new(file);
    let threads = Threads::one();
    let mut tail = Hashing::new(&threads, &mut file);
    for row in rows {
        tail.write_all(&row.to_bytes())?;
    }
    tail.write_all(&parts.examples)?;
    tail.write_all(&head(sha256, taught))?;
    tail.write_all(&parts.about)?;
    let examples = words + (RowMeta::BYTES * rows.len()) as u64;
    for place in [words, examples, examples + parts.examples.len() as u64] {
        tail.write_all(&place.to_le_bytes())?;
    }
    let digest = tail.finish()?;
    file.write_all(digest.sha256.as_bytes())?;
    file.write_all(MAGIC)?;
    file.flush()
}

/// A file's parts; none if it is not whole.
fn read(path: &Path) -> Option<(RowStore, Parts)> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let footer_at = length.checked_sub(FOOTER as u64)?;
    let mut footer = [0; FOOTER];
    file.seek(SeekFrom::Start(footer_at)).ok()?;
    file.read_exact(&mut footer).ok()?;
    if footer[FOOTER - 8..] != *MAGIC {
        return None;
    }
    let place = |i: usize| footer[8 * i..8 * i + 8].try_into().ok().map(u64::from_le_bytes);
    let (words, examples, about) = (place(0)?, place(1)?, place(2)?);
    if !(words <= examples && examples <= about && about <= footer_at) {
        return None;
    }
    let count = usize::try_from(examples - words).ok()?;
    if !count.is_multiple_of(RowMeta::BYTES) {
        return None;
    }
    let count = count / RowMeta::BYTES;
    file.seek(SeekFrom::Start(words)).ok()?;
    // The file itself stays the store's.
    let length = footer_at - words + PLACES as u64;
    let mut tail = HashingReader::new(BufReader::new(&file).take(length));
    let mut bytes = [0; RowMeta::BYTES];
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        tail.read_exact(&mut bytes).ok()?;
        rows.push(RowMeta::from_bytes(&bytes)?);
    }
    let mut part = |bytes: u64| {
        let mut part = vec![0; usize::try_from(bytes).ok()?];
        tail.read_exact(&mut part).ok().map(|()| part)
    };
    let examples = part(about - examples)?;
    let last = part(footer_at - about)?;
    if tail.finish().ok()?.sha256.as_bytes() != &footer[PLACES..PLACES + 64] {
        return None;
    }
    let (sha256, rest) = last.split_at_checked(64)?;
    let (count, rest) = rest.split_at_checked(4)?;
    let count = u32::from_le_bytes(count.try_into().ok()?) as usize;
    let (taught, rest) = rest.split_at_checked(4 * count)?;
    let taught = taught.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
    let parts = Parts { examples, about: rest.to_vec() };
    let sha256 = String::from_utf8(sha256.to_vec()).ok()?;
    Some((RowStore { words: Words::File(file, path.to_path_buf()), rows, sha256, taught }, parts))
}

/// The key of things that decide a file's content.
pub(crate) fn key(deciding: &[String]) -> String {
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    for text in deciding {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}
