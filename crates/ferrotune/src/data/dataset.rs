//! Files of rows become examples. Every complaint names the file and the line.
//!
//! The containers are those of [`rows`]. The shape of a row is the run file's `data.format`, or what the row looks
//! like. Whatever its notation, a row is brought into one form here, once. Rows that cannot be used are kept apart with
//! their reasons, so that all of them can be told together.

mod bad_rows;
mod chats;
pub(crate) mod columns;
mod example;
mod fields;
mod files;
mod flags;
mod messages;
mod plain;
mod roles;
mod shapes;
mod sources;
mod text;

pub use bad_rows::{BadRow, BadRows};
pub use example::{Chat, Example};
pub use files::DataFile;
pub use sources::Source;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::chat_template::ChatTemplate;
use super::random;
use super::rows::{self, RawRow, RowSource};
use crate::error::{Error, Result};
use crate::formats::hash::{Digest, hex};
use crate::run_config::DataFormat;
use columns::Taken;
use fields::{Fields, KNOWN, Problem};
use shapes::Shape;

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

/// The rows of some files, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// Where the rows came from.
    pub files: Vec<DataFile>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows that cannot be used.
    pub bad: BadRows,
    /// How many rows have which shape, in words.
    pub shapes: BTreeMap<String, usize>,
    /// Sources with weights of their own.
    pub sources: Vec<Source>,
}

/// How to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOptions<'a> {
    /// The shape, or `auto`.
    pub format: DataFormat,
    /// Columns under names that they do not have themselves: what a column is, and its name.
    pub columns: &'a [(String, String)],
    /// A row that has none of these columns is taken by its own names. For rows beside those of the run file.
    pub other_names: bool,
    /// The model's chat template, if it has one; then instruction rows become chats.
    pub template: Option<&'a ChatTemplate>,
    /// Only so many rows of all files.
    pub limit: Option<usize>,
}

impl Dataset {
    /// Reads files one after the other. A path may be a file, a folder or a pattern such as `logs/*.csv.gz`. A file without
    /// rows is an error.
    pub fn read(paths: &[impl AsRef<Path>], options: ReadOptions<'_>) -> Result<Dataset> {
        let mut dataset = Dataset::default();
        for path in super::files::expand(paths)? {
            dataset.add_file(&path, options, |path, each| rows::read_file(path, each))?;
        }
        Ok(dataset)
    }

    /// Adds the rows of a file whose content is in memory.
    pub fn add(&mut self, path: &Path, bytes: &[u8], options: ReadOptions<'_>) -> Result<()> {
        self.add_file(path, options, |path, each| rows::read(path, bytes, each))
    }

    /// The rows of a program's own source, such as [`InMemory`](rows::InMemory); `name` stands for its file in messages.
    pub(crate) fn from_source(
        name: &str,
        source: &mut dyn RowSource,
        options: ReadOptions<'_>,
    ) -> Result<Dataset> {
        let mut dataset = Dataset::default();
        let mut hash = Sha256::new();
        while let Some(row) = source.next_row()? {
            if let Ok(fields) = &row.fields {
                hash.update(Value::Object(fields.clone()).to_string());
            }
            dataset.take(row, options);
        }
        dataset.files.push(DataFile { path: name.into(), sha256: hex(&hash.finalize()) });
        Ok(dataset)
    }

    fn add_file(
        &mut self,
        path: &Path,
        options: ReadOptions<'_>,
        read: impl FnOnce(&Path, &mut dyn FnMut(RawRow) -> Result<bool>) -> Result<Digest>,
    ) -> Result<()> {
        let mut found = false;
        let digest = read(path, &mut |row| {
            found = true;
            let more = options.limit.is_none_or(|limit| self.len() < limit);
            if more {
                self.take(row, options);
            }
            Ok(more)
        })?;
        if !found {
            return Err(Error::data(path, 0, "there are no rows")
                .with_hint(format!("a file holds one JSON object on each line, or one array: {KNOWN}")));
        }
        self.files.push(DataFile { path: path.to_path_buf(), sha256: digest.sha256 });
        Ok(())
    }

    /// Takes a row of the file that is read.
    fn take(&mut self, row: RawRow, options: ReadOptions<'_>) {
        let (file, line) = (self.files.len(), row.line);
        let is_row =
            row.fields.map_err(|(problem, hint)| (problem, hint.or_else(|| Some(KNOWN.to_string()))));
        match is_row.and_then(|fields| example(fields, options)) {
            Ok((example, shape)) => {
                *self.shapes.entry(shape).or_default() += 1;
                self.rows.push(Row { example, file, line });
            }
            Err((problem, hint)) => self.bad.push(BadRow { file, line, problem, hint }),
        }
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
    pub fn split(mut self, share: f64, seed: u64) -> Result<(Dataset, Dataset)> {
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
        for (row, is_held) in std::mem::take(&mut self.rows).into_iter().zip(is_held) {
            if is_held { eval.push(row) } else { train.push(row) }
        }
        let held = Dataset { files: self.files.clone(), rows: eval, ..Dataset::default() };
        Ok((Dataset { rows: train, ..self }, held))
    }
}

/// What a row says, and its shape in words.
fn example(fields: Fields, options: ReadOptions<'_>) -> Result<(Example, String), Problem> {
    no_zeros(&fields)?;
    let by_own_names =
        options.other_names && !options.columns.iter().any(|(_, column)| fields.contains_key(column));
    let mut fields = match by_own_names {
        true => fields,
        false => columns::mapped(fields, options.columns)?,
    };
    let mut taken = Vec::new();
    let shape = match Shape::of_format(options.format).map_or_else(|| Shape::detect(&fields), Ok) {
        Ok(shape) => shape,
        Err(unknown) => {
            taken = columns::recognized(&fields)?;
            if taken.is_empty() {
                return Err(unknown);
            }
            fields = columns::renamed(fields, &taken);
            Shape::detect(&fields)?
        }
    };
    let words = match Taken::words(&taken) {
        Some(words) => format!("{} ({words})", shape.name()),
        None => shape.name().to_string(),
    };
    Ok((shape.example(&fields, options.template)?, words))
}

/// Refuses text with NUL characters, which no text has that was not damaged on its way.
fn no_zeros(fields: &Fields) -> Result<(), Problem> {
    fn has_zero(value: &Value) -> bool {
        match value {
            Value::String(text) => text.as_bytes().contains(&0),
            Value::Array(items) => items.iter().any(has_zero),
            Value::Object(fields) => fields.values().any(has_zero),
            _ => false,
        }
    }
    match fields.iter().find(|(_, value)| has_zero(value)) {
        None => Ok(()),
        Some((name, _)) => Err((
            format!("`{name}` holds a NUL character (U+0000)"),
            Some(
                "the file was damaged, or is not the text that it seems; take the character out".to_string(),
            ),
        )),
    }
}

/// Keeps the numbers of the split apart from those of the order.
const HELD_OUT: u64 = 0x6865_6c64;

#[cfg(test)]
mod tests;
