//! Tokenized rows, in memory or in a file.
//!
//! A row is a run of 32-bit words, little-endian: its ids, the highest bit set where a token is its own label, and a
//! CRC-32 of them. (A row whose labels are not its own ids has its labels behind its ids.) What is known of a row without its
//! tokens stays in memory, 16 bytes; tokens are read when a step needs them, and one that does not fit its checksum is an
//! error. So the size of a data set is bounded by the disk.

mod cache;
mod writer;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

pub use cache::{KeptTokens, TokenCache};
pub(crate) use cache::{Parts, key};
pub(crate) use writer::RowWriter;

use super::train_row::{IGNORE, TrainRow};
use crate::{Error, Result};

/// The bit of a word that says that its token is its own label.
const LABEL: u32 = 1 << 31;

/// Rows that are read at a time when all are gone through.
const AT_ONCE: usize = 1024;

/// What is known of a row without its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowMeta {
    /// The row's first word in its file, and in the highest byte [`flags`].
    place: u64,
    len: u32,
    label_tokens: u32,
}

mod flags {
    /// See `TrainRow::goes_on`.
    pub(super) const GOES_ON: u64 = 1 << 56;
    /// A token at which the model stops is a label.
    pub(super) const ENDS: u64 = 1 << 57;
    /// Labels stand behind the ids.
    pub(super) const OWN_LABELS: u64 = 1 << 58;
}

impl RowMeta {
    const BYTES: usize = 16;

    fn has(&self, flag: u64) -> bool {
        self.place & flag != 0
    }

    /// Its words in the file, without the checksum.
    fn words(&self) -> usize {
        self.len as usize * if self.has(flags::OWN_LABELS) { 2 } else { 1 }
    }

    /// Where its first byte is.
    fn start(&self) -> u64 {
        4 * (self.place & ((1 << 56) - 1))
    }

    pub(crate) fn tokens(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn label_tokens(&self) -> usize {
        self.label_tokens as usize
    }

    /// Whether it trains a token at which the model stops.
    pub(crate) fn ends(&self) -> bool {
        self.has(flags::ENDS)
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.place.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..].copy_from_slice(&self.label_tokens.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let place = u64::from(word(0)?) | u64::from(word(4)?) << 32;
        Some(RowMeta { place, len: word(8)?, label_tokens: word(12)? })
    }
}

/// Where words are.
enum Words {
    Memory(Vec<u8>),
    File(File, PathBuf),
}

/// All rows that were tokenized together.
pub(crate) struct RowStore {
    words: Words,
    rows: Vec<RowMeta>,
    /// SHA-256 of all rows in order.
    sha256: String,
    /// The tokens at which a model stops that are labels somewhere.
    taught: Vec<u32>,
}

impl RowStore {
    pub(crate) fn rows(&self) -> &[RowMeta] {
        &self.rows
    }

    pub(crate) fn taught(&self) -> &[u32] {
        &self.taught
    }

    /// The words of a row, without its checksum.
    fn read(&self, row: RowMeta) -> Result<Vec<u32>> {
        let length = 4 * (row.words() + 1);
        let mut buffer = Vec::new();
        let bytes = match &self.words {
            Words::Memory(all) => {
                let start = row.start() as usize;
                all.get(start..start + length).unwrap_or_default()
            }
            Words::File(file, path) => {
                buffer.resize(length, 0);
                read_at(file, &mut buffer, row.start()).map_err(|e| Error::io(path, e))?;
                &buffer
            }
        };
        let (words, checksum) = bytes.split_at(bytes.len().saturating_sub(4));
        if crc32fast::hash(words).to_le_bytes() != checksum {
            let path = if let Words::File(_, path) = &self.words { path.clone() } else { PathBuf::new() };
            return Err(Error::file(path, "a row of the tokenized data does not fit its checksum")
                .with_hint("the file or its disk is damaged; `ferrotune cache --clear` removes it"));
        }
        Ok(words
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect())
    }

    fn row(&self, meta: RowMeta) -> Result<TrainRow> {
        let mut words = self.read(meta)?;
        let labels = match meta.has(flags::OWN_LABELS) {
            true => words.split_off(meta.tokens()).into_iter().map(|label| label as i32).collect(),
            false => words
                .iter()
                .map(|word| if word & LABEL != 0 { (word & !LABEL) as i32 } else { IGNORE })
                .collect(),
        };
        if !meta.has(flags::OWN_LABELS) {
            words.iter_mut().for_each(|word| *word &= !LABEL);
        }
        Ok(TrainRow { input_ids: words, labels, goes_on: meta.has(flags::GOES_ON) })
    }
}

impl fmt::Debug for RowStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place =
            if let Words::File(_, path) = &self.words { path.display().to_string() } else { "memory".into() };
        write!(f, "RowStore({} rows in {place}, sha256 {})", self.rows.len(), self.sha256)
    }
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !buffer.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_read(file, buffer, at)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[n..];
        at += n as u64;
    }
    Ok(())
}

/// Tokenized rows in an order: all that were tokenized together, or some of them, some maybe several times.
#[derive(Clone, Debug)]
pub struct TokenRows {
    store: Arc<RowStore>,
    chosen: Option<Arc<[u32]>>,
}

impl TokenRows {
    /// All rows of a store.
    pub(crate) fn all(store: Arc<RowStore>) -> Self {
        TokenRows { store, chosen: None }
    }

    /// The numbered rows of a store.
    pub(crate) fn some(store: Arc<RowStore>, chosen: Vec<u32>) -> Self {
        TokenRows { store, chosen: Some(chosen.into()) }
    }

    /// No rows.
    pub fn none() -> Self {
        Vec::new().into()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.chosen.as_ref().map_or(self.store.rows.len(), |chosen| chosen.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a row without its tokens. Panics if there is no such row.
    pub(crate) fn meta(&self, row: usize) -> RowMeta {
        let row = self.chosen.as_ref().map_or(row, |chosen| chosen[row] as usize);
        self.store.rows[row]
    }

    /// Tokens of a row. Panics if there is no such row.
    pub fn tokens(&self, row: usize) -> usize {
        self.meta(row).tokens()
    }

    /// Whether a row was made of the same chat as the one before it. Panics if there is no such row.
    pub fn goes_on(&self, row: usize) -> bool {
        self.meta(row).has(flags::GOES_ON)
    }

    /// A row. Panics if there is no such row.
    ///
    /// # Errors
    /// Its file cannot be read, or does not fit its checksum.
    pub fn row(&self, row: usize) -> Result<TrainRow> {
        self.store.row(self.meta(row))
    }

    /// Some rows by their numbers. Panics if there is no such row.
    ///
    /// # Errors
    /// As for [`TokenRows::row`].
    pub fn rows(&self, rows: impl IntoIterator<Item = usize>) -> Result<Vec<TrainRow>> {
        rows.into_iter().map(|row| self.row(row)).collect()
    }

    /// All rows in memory.
    ///
    /// # Errors
    /// As for [`TokenRows::row`].
    pub fn to_vec(&self) -> Result<Vec<TrainRow>> {
        self.rows(0..self.len())
    }

    /// The rows some at a time.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Result<Vec<TrainRow>>> + '_ {
        (0..self.len()).step_by(AT_ONCE).map(|from| self.rows(from..self.len().min(from + AT_ONCE)))
    }

    /// Tokens of each row.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|row| self.tokens(row))
    }

    /// Tokens of all rows.
    pub fn total_tokens(&self) -> usize {
        self.lengths().sum()
    }

    /// Tokens of the longest row; 0 if there is none.
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// The tokens at which a model stops that are labels of rows tokenized together with these.
    pub(crate) fn taught(&self) -> &[u32] {
        self.store.taught()
    }

    /// A hash of the rows and their order.
    pub(crate) fn sha256(&self) -> String {
        use sha2::{Digest, Sha256};
        match &self.chosen {
            None => self.store.sha256.clone(),
            Some(chosen) => {
                let mut hash = Sha256::new();
                hash.update(&self.store.sha256);
                chosen.iter().for_each(|row| hash.update(row.to_le_bytes()));
                crate::formats::hash::hex(&hash.finalize())
            }
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        let words = if let Words::Memory(words) = &self.store.words { words.len() } else { 0 };
        words
            + RowMeta::BYTES * self.store.rows.len()
            + 4 * self.chosen.as_ref().map_or(0, |chosen| chosen.len())
    }
}

impl From<Vec<TrainRow>> for TokenRows {
    fn from(rows: Vec<TrainRow>) -> Self {
        let mut writer = RowWriter::in_memory();
        rows.iter().for_each(|row| writer.push_in_memory(row));
        TokenRows::all(Arc::new(writer.into_store()))
    }
}

impl FromIterator<TrainRow> for TokenRows {
    fn from_iter<T: IntoIterator<Item = TrainRow>>(rows: T) -> Self {
        rows.into_iter().collect::<Vec<_>>().into()
    }
}

impl PartialEq for TokenRows {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.parts().zip(other.parts()).all(|(a, b)| matches!((a, b), (Ok(a), Ok(b)) if a == b))
    }
}

#[cfg(test)]
mod tests;
