//! JSON Lines: an object on each line. Blank lines are passed over.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::{RawRow, RowSource, not_utf8};
use crate::units::human;
use crate::{Error, Result};

/// Bytes of the longest line that is read.
const LONGEST: usize = 64 << 20;

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
            let io = |e| Error::io(&self.path, e);
            let mut line = self.content.by_ref().take(LONGEST as u64);
            if line.read_until(b'\n', &mut self.buffer).map_err(io)? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() == LONGEST && !self.buffer.ends_with(b"\n") {
                self.content.skip_until(b'\n').map_err(io)?;
                self.buffer = Vec::new();
                let problem = format!("the line is longer than {}", human(LONGEST as u64));
                let hint = "a row stands on a line of its own; texts of this size belong into .txt files";
                return Ok(Some(RawRow::new(self.line, Err((problem, Some(hint.to_string()))))));
            }
            let text = std::str::from_utf8(&self.buffer).map_err(|_| not_utf8(&self.path, self.line))?;
            if !text.trim().is_empty() {
                return Ok(Some(RawRow::json(self.line, text.trim())));
            }
        }
    }
}
