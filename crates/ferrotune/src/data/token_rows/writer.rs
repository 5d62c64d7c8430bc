//! Rows go into memory, and into a file as soon as they are many.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{LABEL, RowMeta, RowStore, Words, flags};
use crate::data::train_row::{IGNORE, TrainRow};
use crate::formats::hash::hex;
use crate::{Error, Result};

/// A file that is written; one that is not ended leaves nothing behind.
struct Target {
    /// None once it was ended.
    file: Option<BufWriter<File>>,
    path: PathBuf,
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.file.is_some() {
            // A file without a name has that of its folder here, which stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Takes rows in their order.
pub(crate) struct RowWriter {
    /// What is not in the file, if there is one.
    memory: Vec<u8>,
    file: Option<Target>,
    words: u64,
    tokens: usize,
    rows: Vec<RowMeta>,
    hash: Sha256,
    stops: Vec<u32>,
    taught: BTreeSet<u32>,
}

impl RowWriter {
    /// A writer whose rows stay in memory until it gets a file.
    pub(crate) fn in_memory() -> Self {
        RowWriter {
            memory: Vec::new(),
            file: None,
            words: 0,
            tokens: 0,
            rows: Vec::new(),
            hash: Sha256::new(),
            stops: Vec::new(),
            taught: BTreeSet::new(),
        }
    }

    /// A writer that notes which of these tokens are labels, and which rows have one.
    pub(crate) fn noting(stops: Vec<u32>) -> Self {
        RowWriter { stops, ..RowWriter::in_memory() }
    }

    /// Bytes of tokens that are in memory.
    pub(crate) fn bytes_in_memory(&self) -> usize {
        self.memory.len()
    }

    /// Rows that were taken.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Tokens of them.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Moves what is in memory into an empty file, which takes all that follows; it must be open to read too.
    pub(crate) fn move_to(&mut self, file: File, path: &Path) -> Result<()> {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        file.write_all(&self.memory).map_err(|e| Error::io(path, e))?;
        self.memory = Vec::new();
        self.file = Some(Target { file: Some(file), path: path.to_path_buf() });
        Ok(())
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: &TrainRow) -> Result<()> {
        self.push_in_memory(row);
        if let Some(Target { file: Some(file), path }) = &mut self.file {
            file.write_all(&self.memory).map_err(|e| Error::io(&*path, e))?;
            self.memory.clear();
        }
        Ok(())
    }

    pub(super) fn push_in_memory(&mut self, row: &TrainRow) {
        let is_own =
            |(&id, &label): (&u32, &i32)| id < LABEL && (label == IGNORE || u32::try_from(label) == Ok(id));
        let own = row.input_ids.iter().zip(&row.labels).all(is_own);
        let start = self.memory.len();
        let word = |(&id, &label): (&u32, &i32)| if own && label != IGNORE { id | LABEL } else { id };
        let words = row.input_ids.iter().zip(&row.labels).map(word);
        self.memory.extend(words.flat_map(u32::to_le_bytes));
        if !own {
            self.memory.extend(row.labels.iter().flat_map(|label| label.to_le_bytes()));
        }
        let bytes = &self.memory[start..];
        let checksum = crc32fast::hash(bytes);
        self.hash.update((row.len() as u64).to_le_bytes());
        self.hash.update(bytes);

        let mut place = self.words;
        self.words += bytes.len() as u64 / 4 + 1;
        self.tokens += row.len();
        self.memory.extend(checksum.to_le_bytes());
        let trained = row.labels.iter().skip(1).filter_map(|&label| u32::try_from(label).ok());
        let mut stops = trained.filter(|id| self.stops.contains(id)).peekable();
        if stops.peek().is_some() {
            place |= flags::ENDS;
        }
        self.taught.extend(stops);
        if row.goes_on {
            place |= flags::GOES_ON;
        }
        if !own {
            place |= flags::OWN_LABELS;
        }
        self.rows.push(RowMeta { place, len: row.len() as u32, label_tokens: row.label_tokens() as u32 });
    }

    /// The rows, if all are in memory.
    pub(super) fn into_store(self) -> RowStore {
        self.store_with(Words::Memory)
    }

    /// The rows, and the file that they are in if there is one.
    pub(crate) fn finish(mut self) -> Result<RowStore> {
        let Some(mut target) = self.file.take() else { return Ok(self.into_store()) };
        let path = target.path.clone();
        let Some(writer) = &mut target.file else { return Ok(self.into_store()) };
        writer.flush().map_err(|e| Error::io(&path, e))?;
        let file = writer.get_ref().try_clone().map_err(|e| Error::io(&path, e))?;
        target.file = None;
        Ok(self.store_with(|_| Words::File(file, path)))
    }

    fn store_with(self, words: impl FnOnce(Vec<u8>) -> Words) -> RowStore {
        RowStore {
            words: words(self.memory),
            rows: self.rows,
            sha256: hex(&self.hash.finalize()),
            taught: self.taught.into_iter().collect(),
        }
    }
}
