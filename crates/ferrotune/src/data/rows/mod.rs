//! Containers of rows: a trait, and a file for each kind.
//!
//! A container gives its rows one after the other. It holds no more of them than it must, so a file may be larger than
//! memory. Another kind of file is a module here with a `Format`, and its row in `FORMATS`.

mod content;
mod csv;
mod document;
mod json_document;
mod json_lines;
mod memory;
mod parquet;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

use content::{Content, has_ending};
pub(super) use document::is_document;
pub use memory::InMemory;

use crate::formats::hash::{Digest, HashingReader};
use crate::{Error, Result};

/// Named values.
pub type Fields = Map<String, Value>;

/// What is wrong with a row, and a hint.
pub type Problem = (String, Option<String>);

/// A row as its container has it.
#[derive(Debug)]
pub struct RawRow {
    /// Where it is: a line of a text file, or its number; from 1.
    pub line: usize,
    /// Its fields, or why it has none; without a hint of its own the known shapes are named.
    pub fields: std::result::Result<Fields, Problem>,
}

/// Gives the rows of a container, in order.
pub trait RowSource {
    /// The next row; none at the end.
    ///
    /// # Errors
    /// The container cannot be read any further. A row that cannot be used is no error here.
    fn next_row(&mut self) -> Result<Option<RawRow>>;
}

/// A kind of files.
struct Format {
    /// Whether a file is of this kind, by its path and its first bytes (without a byte-order mark).
    is: fn(&Path, &[u8]) -> bool,
    /// Its rows.
    open: for<'a> fn(&Path, Content<'a>) -> Result<Box<dyn RowSource + 'a>>,
}

/// All kinds but JSON Lines, which is what no other one is.
const FORMATS: &[Format] = &[parquet::FORMAT, csv::FORMAT, document::FORMAT, json_document::FORMAT];

/// Whether a file begins as rows in JSON do: with an object, or with an array of objects.
fn is_json(head: &[u8]) -> bool {
    match head[..head.len().min(256)].trim_ascii_start() {
        [b'{', object @ ..] => object.trim_ascii_start().starts_with(b"\""),
        [b'[', array @ ..] => array.trim_ascii_start().starts_with(b"{"),
        _ => false,
    }
}

/// Whether a file holds rows by its name.
pub(super) fn holds_rows(path: &Path) -> bool {
    has_ending(path, &["jsonl", "ndjson", "json", "csv", "tsv", "tab", "parquet"])
}

/// Goes through the rows of a file while `each` wants more, and gives the digest of the whole file.
pub(super) fn read_file(path: &Path, each: &mut dyn FnMut(RawRow) -> Result<bool>) -> Result<Digest> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    read_from(path, file, true, each)
}

/// Reads rows from content of any origin; `path` is for messages and for the kind.
pub(super) fn read(
    path: &Path,
    content: impl Read,
    each: &mut dyn FnMut(RawRow) -> Result<bool>,
) -> Result<Digest> {
    read_from(path, content, false, each)
}

fn read_from(
    path: &Path,
    raw: impl Read,
    is_file: bool,
    each: &mut dyn FnMut(RawRow) -> Result<bool>,
) -> Result<Digest> {
    let refused = |e: io::Error| Error::io(path, e);
    let mut hashing = HashingReader::new(raw);
    {
        let content = Content::new(&mut hashing, is_file).map_err(refused)?;
        let mut source = match FORMATS.iter().find(|format| (format.is)(path, content.head())) {
            Some(format) => (format.open)(path, content)?,
            None => {
                refuse_others(path, content.head())?;
                json_lines::open(path, content.into_lines())
            }
        };
        while let Some(row) = source.next_row()? {
            if !each(row)? {
                break;
            }
        }
    }
    hashing.finish().map_err(refused)
}

/// Refuses a file that is known by its first bytes and that no format reads.
fn refuse_others(path: &Path, head: &[u8]) -> Result<()> {
    match crate::file_kind::detect(head) {
        None => Ok(()),
        Some(kind) => Err(Error::file(path, format!("this is {kind}, which holds no rows that can be read"))
            .with_hint(
                "rows are read from JSON Lines, JSON, CSV, TSV and Parquet, also compressed by gzip or zstd",
            )),
    }
}

/// The fields of a row that is the text of a JSON object, which begins at `line`.
fn parse(line: usize, json: &str) -> RawRow {
    match crate::json::from_text(json) {
        Ok(Value::Object(fields)) => RawRow { line, fields: Ok(fields) },
        Ok(other) => {
            RawRow { line, fields: Err((format!("found {}, expected an object", kind(&other)), None)) }
        }
        Err(error) => {
            let problem = format!("not valid JSON: {} at column {}", error.problem, error.column);
            let hint = "a file holds one whole JSON object on each line, or one array of objects";
            // Within a row the parser counts lines from 1 again.
            RawRow { line: line + error.line - 1, fields: Err((problem, Some(hint.to_string()))) }
        }
    }
}

/// The error for text that is not UTF-8.
fn not_utf8(path: &Path, line: usize) -> Error {
    Error::data(path, line, "the text is not UTF-8").with_hint("save the file as UTF-8")
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
