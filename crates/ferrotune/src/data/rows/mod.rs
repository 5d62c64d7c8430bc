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
mod source_folder;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use content::{Content, has_ending};
pub(super) use document::is_document;
pub use memory::InMemory;
pub(super) use source_folder::SourceFolder;

use crate::formats::hash::{Digest, HashingReader};
use crate::{Error, Result};

/// Named values.
pub type Fields = Map<String, Value>;

/// What is wrong with a row, and a hint.
pub type Problem = (String, Option<String>);

/// A row as its container has it.
#[derive(Debug)]
pub struct RawRow {
    line: usize,
    content: RawContent,
}

#[derive(Debug)]
enum RawContent {
    Fields(std::result::Result<Fields, Problem>),
    /// The text of a JSON object; rows are parsed together with others, on all threads.
    Json(String),
}

impl RawRow {
    /// A row with its place (a line of a text file, or its number; from 1) and its fields, or why it has none; without a
    /// hint of its own the known shapes are named.
    pub fn new(line: usize, fields: std::result::Result<Fields, Problem>) -> Self {
        RawRow { line, content: RawContent::Fields(fields) }
    }

    /// A row that is the text of a JSON object, which begins at `line`.
    fn json(line: usize, text: impl Into<String>) -> Self {
        RawRow { line, content: RawContent::Json(text.into()) }
    }

    /// About how many bytes of text it has.
    pub(super) fn bytes(&self) -> usize {
        fn of(value: &Value) -> usize {
            match value {
                Value::String(text) => text.len() + 8,
                Value::Array(items) => items.iter().map(of).sum(),
                Value::Object(fields) => fields.values().map(of).sum(),
                _ => 8,
            }
        }
        match &self.content {
            RawContent::Json(text) => text.len(),
            RawContent::Fields(Ok(fields)) => fields.values().map(of).sum(),
            RawContent::Fields(Err(_)) => 0,
        }
    }

    /// Its place and its fields.
    pub(super) fn parsed(self) -> (usize, std::result::Result<Fields, Problem>) {
        match self.content {
            RawContent::Fields(fields) => (self.line, fields),
            RawContent::Json(text) => parse(self.line, &text),
        }
    }

    /// Adds its content to a hash.
    pub(super) fn hash(&self, hash: &mut Sha256) {
        match &self.content {
            RawContent::Json(text) => hash.update(text),
            RawContent::Fields(Ok(fields)) => {
                // Each value by itself, so that the fields need not be copied into one.
                for (name, value) in fields {
                    hash.update(Value::from(name.as_str()).to_string());
                    hash.update(value.to_string());
                }
                hash.update("\n");
            }
            RawContent::Fields(Err(_)) => {}
        }
    }
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
pub(crate) fn holds_rows(path: &Path) -> bool {
    has_ending(path, &["jsonl", "ndjson", "json", "csv", "tsv", "tab", "parquet"])
}

/// Bytes of some files; what cannot be asked for counts nothing.
pub(super) fn bytes_of(paths: &[&PathBuf]) -> u64 {
    paths.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|about| about.len()).sum()
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

/// The fields of a row that is the text of a JSON object, which begins at `line`; an error has a line of its own.
fn parse(line: usize, json: &str) -> (usize, std::result::Result<Fields, Problem>) {
    match crate::json::from_text(json) {
        Ok(Value::Object(fields)) => (line, Ok(fields)),
        Ok(other) => (line, Err((format!("found {}, expected an object", kind(&other)), None))),
        Err(error) => {
            let problem = format!("not valid JSON: {} at column {}", error.problem, error.column);
            let hint = "a file holds one whole JSON object on each line, or one array of objects";
            // Within a row the parser counts lines from 1 again.
            (line + error.line - 1, Err((problem, Some(hint.to_string()))))
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
