//! Texts and Markdown: a file is one row.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::content::{Content, plain_name};
use super::{Fields, Format, RawRow, RowSource, is_json, not_utf8};
use crate::{Error, Result};

/// Known by its name; rows in JSON are rows whatever the name.
pub(super) const FORMAT: Format = Format { is: |path, head| is_document(path) && !is_json(head), open };

const ENDINGS: &[&str] = &["txt", "text", "md", "markdown", "rst", "adoc", "org"];

/// Whether a file is a text by its name.
pub(crate) fn is_document(path: &Path) -> bool {
    let name = plain_name(path);
    let ending = name.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

struct Document<'a> {
    path: PathBuf,
    content: Option<Content<'a>>,
}

fn open<'a>(path: &Path, content: Content<'a>) -> Result<Box<dyn RowSource + 'a>> {
    Ok(Box::new(Document { path: path.to_path_buf(), content: Some(content) }))
}

impl RowSource for Document<'_> {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let Some(content) = self.content.take() else { return Ok(None) };
        let bytes = content.into_bytes().map_err(|e| Error::io(&self.path, e))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
            not_utf8(&self.path, 1 + before.iter().filter(|b| **b == b'\n').count())
        })?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        // Line ends of Windows are of the file, not of the text.
        let fields = Fields::from_iter([("text".to_string(), Value::from(text.replace("\r\n", "\n")))]);
        Ok(Some(RawRow { line: 1, fields: Ok(fields) }))
    }
}
