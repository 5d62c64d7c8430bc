//! One JSON array of objects. It is cut into its elements without parsing them, so that each keeps its line and a broken
//! one does not hide the others; for that the whole text is in memory. (`serde_json`'s `RawValue` cuts as well, but ends at
//! the first element that is not well formed.)

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use super::{Content, Format, RawRow, RowSource, not_utf8, parse};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format { is: |_, head| head.trim_ascii_start().starts_with(b"["), open };

struct JsonArray {
    text: String,
    /// The elements, the last one first.
    left: Vec<Element>,
}

fn open<'a>(path: &Path, mut content: Content<'a>) -> Result<Box<dyn RowSource + 'a>> {
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    let bytes = crate::json::without_mark(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        not_utf8(path, 1 + before.iter().filter(|b| **b == b'\n').count())
    })?;
    let mut left = elements(text);
    left.reverse();
    Ok(Box::new(JsonArray { text: text.to_string(), left }))
}

impl RowSource for JsonArray {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let text = |range: Option<Range<usize>>| range.map_or(",", |range| self.text[range].trim_end());
        Ok(self.left.pop().map(|element| parse(element.line, text(element.range))))
    }
}

/// An element of the array.
struct Element {
    line: usize,
    /// Where it is; none stands for text behind the array, which is no row whatever it says.
    range: Option<Range<usize>>,
}

/// The elements of an array and their lines. What is not well formed comes out as an element too, for the parser to complain about.
fn elements(text: &str) -> Vec<Element> {
    let mut rows = Vec::new();
    let of = |line, range| Element { line, range: Some(range) };
    let mut line = 1;
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    // Start of the current element and its line.
    let mut start: Option<(usize, usize)> = None;
    for (at, c) in text.char_indices() {
        line += usize::from(c == '\n');
        if in_string {
            in_string = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
            continue;
        }
        match c {
            '[' if depth == 0 && start.is_none() && rows.is_empty() => {
                depth = 1;
                continue;
            }
            ',' | ']' if depth == 1 => {
                if let Some((from, line)) = start.take() {
                    rows.push(of(line, from..at));
                }
                if c == ']' {
                    depth = 0;
                }
                continue;
            }
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            '"' => in_string = true,
            _ => {}
        }
        if start.is_none() && !c.is_whitespace() {
            start = Some((at, line));
        }
    }
    // Neither of these parses: an array that never closes, and text after one that did.
    if depth > 0 {
        rows.extend(start.map(|(from, line)| of(line, from..text.len())));
        rows.push(of(line, text.len()..text.len()));
    } else if let Some((_, line)) = start {
        rows.push(Element { line, range: None });
    }
    rows
}
