//! Files of rows become examples. Every complaint names the file and the line.
//!
//! A file is JSON Lines, or one JSON array. The shape of a row is the run file's `data.format`, or what the row looks
//! like. Whatever its notation, a row is brought into one form here, once. Rows that cannot be used are kept apart with
//! their reasons, so that all of them can be told together.

mod bad_rows;
mod flags;
mod json_rows;
mod messages;
mod plain;
mod roles;
mod shapes;
mod text;

pub use bad_rows::{BadRow, BadRows};
pub use roles::ROLE_ALIASES;
pub use shapes::{Chat, Example};

use crate::data::chat_template::ChatTemplate;
use crate::data::random;
use crate::error::{Error, Result};
use crate::formats::hash::Digest;
use crate::run_config::DataFormat;
use serde::Serialize;
use serde_json::{Map, Value};
use shapes::{Problem, Shape};
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
    /// Rows that cannot be used.
    pub bad: BadRows,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions<'a> {
    /// The shape, or `auto`.
    pub format: DataFormat,
    /// The model's chat template, if it has one; then instruction rows become chats.
    pub template: Option<&'a ChatTemplate>,
    /// Only so many rows of all files.
    pub limit: Option<usize>,
}

impl Dataset {
    /// Reads files one after the other. A file without rows is an error.
    pub fn read(files: &[impl AsRef<Path>], options: ReadOptions<'_>) -> Result<Dataset> {
        let mut dataset = Dataset::default();
        for path in files {
            let path = path.as_ref();
            let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
            dataset.add(path, &bytes, options)?;
        }
        Ok(dataset)
    }

    /// Adds the rows of a file that was read already.
    pub fn add(&mut self, path: &Path, bytes: &[u8], options: ReadOptions<'_>) -> Result<()> {
        let text = utf8(path, bytes)?;
        let mut found = false;
        for (line, json) in json_rows::split(text) {
            found = true;
            if options.limit.is_some_and(|limit| self.len() >= limit) {
                break;
            }
            let file = self.files.len();
            match row(line, json, options) {
                Ok(example) => self.rows.push(Row { example, file, line }),
                Err((line, (problem, hint))) => self.bad.push(BadRow { file, line, problem, hint }),
            }
        }
        if !found {
            return Err(Error::data(path, 0, "there are no rows").with_hint(format!(
                "a file holds one JSON object on each line, or one array: {}",
                shapes::KNOWN
            )));
        }
        let sha256 = Digest::of(bytes).sha256;
        self.files.push(DataFile { path: path.to_path_buf(), sha256 });
        Ok(())
    }

    /// How many rows were read, those with that cannot be used.
    pub fn len(&self) -> usize {
        self.rows.len() + self.bad.len()
    }

    /// Whether no row was read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let held = Dataset { files: self.files.clone(), rows: eval, bad: BadRows::default() };
        Ok((Dataset { files: self.files, rows: train, bad: self.bad }, held))
    }
}

/// Keeps the numbers of the split apart from those of the order.
const HELD_OUT: u64 = 0x6865_6c64;

fn utf8<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a str> {
    let bytes = crate::json::without_mark(bytes);
    let is_table =
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("csv") || e.eq_ignore_ascii_case("tsv"));
    let is_json = bytes.trim_ascii_start().starts_with(b"{") || bytes.trim_ascii_start().starts_with(b"[");
    let kind =
        crate::file_kind::of(bytes).or((is_table && !is_json).then_some("a table of separated values"));
    if let Some(kind) = kind {
        return Err(Error::file(path, format!("this is {kind}, which is not read yet"))
            .with_hint("write the rows as JSON Lines: one JSON object on each line, in UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        Error::data(path, line, "the text is not UTF-8").with_hint("save the file as UTF-8")
    })
}

/// What a row says, or where and why it cannot be used.
fn row(line: usize, json: &str, options: ReadOptions<'_>) -> std::result::Result<Example, (usize, Problem)> {
    let fields = object(line, json)?;
    let shape = Shape::of_format(options.format).map_or_else(|| Shape::detect(&fields), Ok);
    shape.and_then(|shape| shape.example(&fields, options.template)).map_err(|problem| (line, problem))
}

fn object(line: usize, json: &str) -> std::result::Result<Map<String, Value>, (usize, Problem)> {
    match crate::json::from_text(json) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => {
            let problem = format!("found {}, expected an object", shapes::kind(&other));
            Err((line, (problem, Some(shapes::KNOWN.to_string()))))
        }
        Err(error) => {
            let problem = format!("not valid JSON: {} at column {}", error.problem, error.column);
            let hint = "a file holds one whole JSON object on each line, or one array of objects";
            // Within a row the parser counts lines from 1 again.
            Err((line + error.line - 1, (problem, Some(hint.to_string()))))
        }
    }
}

#[cfg(test)]
mod tests;
