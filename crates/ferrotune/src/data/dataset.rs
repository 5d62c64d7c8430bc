//! Files of rows become examples. Every complaint names the file and the line.
//!
//! The containers are those of [`rows`]. The shape of a row is the run file's `data.format`, or what the row looks
//! like. Whatever its notation, a row is brought into one form here, once. Rows that cannot be used are kept apart with
//! their reasons, so that all of them can be told together.

mod bad_rows;
mod chats;
mod code;
pub(crate) mod columns;
mod example;
mod fields;
mod files;
mod flags;
mod messages;
mod plain;
mod roles;
mod shapes;
mod text;

pub use bad_rows::{BadRow, BadRows};
pub use example::{Chat, CodeFile, Example};
pub use files::DataFile;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::chat_template::ChatTemplate;
use super::rows::{self, RawRow};
use crate::error::{Error, Result};
use crate::formats::hash::Digest;
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

impl ReadOptions<'_> {
    /// What of it decides what rows say, as text; the template is known elsewhere.
    pub(crate) fn deciding(&self) -> String {
        let ReadOptions { format, columns, other_names, template, limit } = self;
        format!("{format} {columns:?} {other_names} {} {limit:?}", template.is_some())
    }
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
            return Err(no_rows(path));
        }
        self.files.push(DataFile { path: path.to_path_buf(), sha256: digest.sha256 });
        Ok(())
    }

    /// Takes a row of the file that is read.
    fn take(&mut self, row: RawRow, options: ReadOptions<'_>) {
        let file = self.files.len();
        let (line, row) = read_row(row, options);
        match row {
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
}

/// The error for a file without rows.
pub(super) fn no_rows(path: &Path) -> Error {
    Error::data(path, 0, "there are no rows")
        .with_hint(format!("a file holds one JSON object on each line, or one array: {KNOWN}"))
}

/// The place of a row, and what it says with its shape in words.
pub(super) fn read_row(
    row: RawRow,
    options: ReadOptions<'_>,
) -> (usize, std::result::Result<(Example, String), Problem>) {
    let (line, fields) = row.parsed();
    let fields = fields.map_err(|(problem, hint)| (problem, hint.or_else(|| Some(KNOWN.to_string()))));
    (line, fields.and_then(|fields| example(fields, options)))
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

#[cfg(test)]
mod tests;
