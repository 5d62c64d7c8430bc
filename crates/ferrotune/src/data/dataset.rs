//! Files of rows become examples. Every complaint names the file and the line.
//!
//! A file is JSON Lines, or one JSON array. Its shape is the run file's `data.format`, or what its first row looks like.

mod json_rows;
mod shapes;

pub use shapes::{Example, ROLE_ALIASES};

use crate::data::random;
use crate::error::{Error, Result};
use crate::run_config::DataFormat;
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use shapes::Shape;
use std::path::{Path, PathBuf};

/// A row with the place it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it says.
    pub example: Example,
    /// Its file, an index into [`Dataset::files`].
    pub file: usize,
    /// Its line, from 1.
    pub line: usize,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataFile {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes in hexadecimal: what a run was trained on can be told later.
    pub sha256: String,
}

/// The rows of some files, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Where the rows came from.
    pub files: Vec<DataFile>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions {
    /// The shape, or `auto`.
    pub format: DataFormat,
    /// Whether the model has a chat template; then instruction rows become chats.
    pub has_template: bool,
}

impl Dataset {
    /// Reads files one after the other. A file without rows is an error.
    pub fn read(files: &[impl AsRef<Path>], options: ReadOptions) -> Result<Dataset> {
        let mut dataset = Dataset::default();
        for path in files {
            let path = path.as_ref();
            let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
            dataset.add(path, &bytes, options)?;
        }
        Ok(dataset)
    }

    /// Adds the rows of a file that was read already.
    pub fn add(&mut self, path: &Path, bytes: &[u8], options: ReadOptions) -> Result<()> {
        let text = utf8(path, bytes)?;
        let mut shape = Shape::of_format(options.format);
        let before = self.rows.len();
        for (line, json) in json_rows::split(text) {
            let fields = object(path, line, json)?;
            let in_row = |(problem, hint): (String, Option<String>)| {
                let error = Error::data(path, line, problem);
                match hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                }
            };
            let known = match shape {
                Some(known) => known,
                None => *shape.insert(Shape::detect(&fields).map_err(in_row)?),
            };
            let example = known.example(fields, options.has_template).map_err(in_row)?;
            self.rows.push(Row { example, file: self.files.len(), line });
        }
        if self.rows.len() == before {
            return Err(Error::data(path, 0, "there are no rows").with_hint(format!(
                "a file holds one JSON object on each line, or one array: {}",
                shapes::KNOWN
            )));
        }
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        self.files.push(DataFile { path: path.to_path_buf(), sha256 });
        Ok(())
    }

    /// An error about one of the rows.
    pub fn error(&self, row: &Row, problem: impl Into<String>) -> Error {
        let path = self.files.get(row.file).map_or(Path::new(""), |file| &file.path);
        Error::data(path, row.line, problem)
    }

    /// Takes a share of the rows away for evaluation. Which rows depends on the seed and on their places in the files,
    /// not on any order of training.
    pub fn split(self, share: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        let count = self.rows.len();
        if count < 2 {
            return Err(Error::config(
                "data.eval",
                format!("{count} row cannot be shared between training and evaluation"),
            )
            .with_hint("give more rows, a file of its own for data.eval, or data.eval=none"));
        }
        let held = ((share * count as f64).round() as usize).clamp(1, count - 1);
        let mut keys: Vec<(u64, usize)> =
            (0..count).map(|i| (random::hash(&[seed, HELD_OUT, i as u64]), i)).collect();
        keys.sort_unstable();
        let mut is_held = vec![false; count];
        keys[..held].iter().for_each(|&(_, i)| is_held[i] = true);
        let (mut train, mut eval) = (Vec::with_capacity(count - held), Vec::with_capacity(held));
        for (row, is_held) in self.rows.into_iter().zip(is_held) {
            if is_held { eval.push(row) } else { train.push(row) }
        }
        Ok((Dataset { files: self.files.clone(), rows: train }, Dataset { files: self.files, rows: eval }))
    }
}

/// Keeps the numbers of the split apart from those of the order.
const HELD_OUT: u64 = 0x6865_6c64;

fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    let bytes = crate::json::without_mark(bytes);
    if let Some(kind) = crate::file_kind::of(bytes) {
        return Err(Error::file(path, format!("this is {kind}, which is not read yet"))
            .with_hint("write the rows as JSON Lines: one JSON object on each line, in UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::data(path, line, "the text is not UTF-8").with_hint("save the file as UTF-8")
    })
}

fn object(path: &Path, line: usize, json: &str) -> Result<Map<String, Value>> {
    match crate::json::from_text(json) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            Err(Error::data(path, line, format!("found {}, expected an object", shapes::kind(&other)))
                .with_hint(shapes::KNOWN))
        }
        Err(error) => {
            // Within a row the parser counts lines from 1 again.
            let line = line + error.line - 1;
            Err(Error::data(
                path,
                line,
                format!("not valid JSON: {} at column {}", error.problem, error.column),
            )
            .with_hint("a file holds one whole JSON object on each line, or one array of objects"))
        }
    }
}

#[cfg(test)]
mod tests;
