//! Texts and Markdown: a file is one row.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::content::{Content, has_ending};
use super::{Fields, Format, RawRow, RowSource, is_json};
use crate::Result;

/// Known by its name; rows in JSON are rows whatever the name.
pub(super) const FORMAT: Format = Format { is: |path, head| is_document(path) && !is_json(head), open };

/// Whether a file is a text by its name.
pub(crate) fn is_document(path: &Path) -> bool {
    has_ending(path, &["txt", "text", "md", "markdown", "rst", "adoc", "org"])
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
        let text = content.into_text(&self.path)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        // Line ends of Windows are of the file, not of the text.
        let fields = Fields::from_iter([("text".to_string(), Value::from(text.replace("\r\n", "\n")))]);
        Ok(Some(RawRow::new(1, Ok(fields))))
    }
}
