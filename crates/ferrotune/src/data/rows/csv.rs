//! Tables of separated values (CSV, TSV). The first line names the columns, every value is text, and an empty one counts
//! as absent, because the format cannot tell them apart.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use csv::{ErrorKind, Position, Reader, ReaderBuilder, StringRecord};
use serde_json::Value;

use super::content::{Content, has_ending};
use super::{Fields, Format, RawRow, RowSource, is_json, not_utf8};
use crate::{Error, Result};

/// Tables are told by their names; a file with rows in JSON is one of JSON whatever its name.
pub(super) const FORMAT: Format = Format { is: |path, head| is_table(path) && !is_json(head), open };

fn is_table(path: &Path) -> bool {
    has_ending(path, &["csv", "tsv", "tab"])
}

/// Stands behind the last record. A file that ends inside quotes has it inside a value.
const END: &str = "\u{1}end of the table\u{1}";

struct Table<'a> {
    path: PathBuf,
    reader: Reader<Box<dyn Read + 'a>>,
    columns: Vec<String>,
    record: StringRecord,
}

fn open<'a>(path: &Path, content: Content<'a>) -> Result<Box<dyn RowSource + 'a>> {
    let delimiter = delimiter(content.head());
    let with_end: Box<dyn Read + 'a> =
        Box::new(content.into_lines().chain(Cursor::new(format!("\n{END}\n"))));
    let reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .has_headers(false)
        .buffer_capacity(1 << 16)
        .from_reader(with_end);
    let mut table =
        Table { path: path.to_path_buf(), reader, columns: Vec::new(), record: StringRecord::new() };
    if table.advance()?.is_some() {
        table.columns = table.record.iter().map(|name| name.trim().to_string()).collect();
        let mut names = table.columns.clone();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1] && !pair[0].is_empty()) {
            return Err(Error::data(path, 1, format!("two columns have the name `{}`", twice[0]))
                .with_hint("the first line names the columns; give each a name of its own"));
        }
    }
    Ok(Box::new(table))
}

/// What stands most often between the names of columns.
fn delimiter(head: &[u8]) -> u8 {
    let mut quoted = false;
    let outside: Vec<u8> = head
        .iter()
        .copied()
        .take_while(|&b| b != b'\n')
        .filter(|&b| {
            quoted ^= b == b'"';
            !quoted
        })
        .collect();
    let count = |delimiter: u8| outside.iter().filter(|&&b| b == delimiter).count();
    // Of equally many the first one.
    let most = [b',', b'\t', b';', b'|'].into_iter().rev().max_by_key(|&d| count(d));
    most.unwrap_or(b',')
}

impl Table<'_> {
    /// Reads the next record; its line, or none at the end.
    fn advance(&mut self) -> Result<Option<usize>> {
        let line = |place: Option<&Position>| place.map_or(0, |p| p.line() as usize);
        match self.reader.read_record(&mut self.record) {
            Ok(true) => {}
            // The end was read before.
            Ok(false) => return Ok(None),
            Err(error) => {
                return Err(match error.kind() {
                    ErrorKind::Utf8 { pos, .. } => not_utf8(&self.path, line(pos.as_ref())),
                    _ => Error::io(&self.path, error.into()),
                });
            }
        }
        let line = line(self.record.position());
        let last = self.record.iter().next_back().unwrap_or_default();
        if self.record.len() == 1 && last == END {
            return Ok(None);
        }
        if last.trim_end().ends_with(END) {
            return Err(Error::data(&self.path, line, "a value in quotes has no closing quote")
                .with_hint("double a quote that belongs to a value: \"he said \"\"yes\"\"\""));
        }
        Ok(Some(line))
    }
}

impl RowSource for Table<'_> {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        while let Some(line) = self.advance()? {
            // What spreadsheets leave behind the last row.
            if self.record.iter().all(str::is_empty) {
                continue;
            }
            if self.record.len() != self.columns.len() {
                let problem = format!("{} values for {} columns", self.record.len(), self.columns.len());
                let hint = "put a value with a separator, a quote or a line break into double quotes";
                return Ok(Some(RawRow::new(line, Err((problem, Some(hint.to_string()))))));
            }
            let value = |text: &str| match text.is_empty() {
                true => Value::Null,
                false => Value::from(text),
            };
            let named = self.columns.iter().cloned().zip(self.record.iter().map(value));
            return Ok(Some(RawRow::new(line, Ok(named.collect::<Fields>()))));
        }
        Ok(None)
    }
}
