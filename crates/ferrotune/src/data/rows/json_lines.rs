//! JSON Lines: an object on each line. Blank lines are passed over.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::{RawRow, RowSource, not_utf8, parse};
use crate::{Error, Result};

/// The rows of a file that no other format is for.
pub(super) fn open<'a>(path: &Path, content: Box<dyn BufRead + 'a>) -> Box<dyn RowSource + 'a> {
    Box::new(JsonLines { path: path.to_path_buf(), content, line: 0, buffer: Vec::new() })
}

struct JsonLines<'a> {
    path: PathBuf,
    content: Box<dyn BufRead + 'a>,
    line: usize,
    buffer: Vec<u8>,
}

impl RowSource for JsonLines<'_> {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        loop {
            self.buffer.clear();
            let read = self.content.read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| Error::io(&self.path, e))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let text = std::str::from_utf8(&self.buffer).map_err(|_| not_utf8(&self.path, self.line))?;
            if !text.trim().is_empty() {
                return Ok(Some(parse(self.line, text.trim())));
            }
        }
    }
}
