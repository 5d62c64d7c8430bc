//! Rows that cannot be used, told together.

use super::files::DataFile;
use crate::error::Error;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// How many are told with their reasons.
const SHOWN: usize = 20;

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Its file, an index into `Dataset::files`.
    pub file: usize,
    /// Its line, from 1.
    pub line: usize,
    /// What was found and what was expected.
    pub problem: String,
    /// What the user could do.
    pub hint: Option<String>,
}

/// All rows that cannot be used: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRows {
    count: usize,
    first: Vec<BadRow>,
}

impl BadRows {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one that comes after all others of its kind.
    pub fn push(&mut self, row: BadRow) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(row);
        }
    }

    /// Both together, in the order of the files.
    #[must_use]
    pub fn and(mut self, other: BadRows) -> BadRows {
        self.count += other.count;
        self.first.extend(other.first);
        self.first.sort_by_key(|row| (row.file, row.line));
        self.first.truncate(SHOWN);
        self
    }

    /// The first of them as `file:line: reason`, and how many more there are.
    pub fn lines(&self, files: &[DataFile]) -> Vec<String> {
        let line = |row: &BadRow| {
            let path = files.get(row.file).map_or(Path::new(""), |file| &file.path);
            format!("{}:{}: {}", path.display(), row.line, row.problem)
        };
        let more = self.count - self.first.len();
        let more = (more > 0).then(|| format!("and {more} more"));
        self.first.iter().map(line).chain(more).collect()
    }

    /// The error about them, if there are any, of `rows` rows; `skip` says how they could be left out.
    pub fn error(&self, files: &[DataFile], rows: usize, skip: Option<&str>) -> Option<Error> {
        let first = self.first.first()?;
        let correct = if self.count > 1 { "correct the rows" } else { "correct the row" };
        let hint = first.hint.as_deref().unwrap_or(correct);
        let hint = skip.map_or_else(|| hint.to_string(), |skip| format!("{hint}; {skip}"));
        if self.count > 1 {
            let list: String = self.lines(files).iter().map(|line| format!("\n  {line}")).collect();
            return Some(Error::Rows { count: self.count, rows, list, hint: Some(hint) });
        }
        let path = files.get(first.file).map_or(Path::new(""), |file| &file.path);
        Some(Error::data(path, first.line, &first.problem).with_hint(hint))
    }
}
