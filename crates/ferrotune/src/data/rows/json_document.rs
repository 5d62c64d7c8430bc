//! One JSON document: an array of objects, or an object that has such an array under one of its keys. The array is cut
//! into its elements without parsing them, so that each keeps its line and a broken one does not hide the others; for that
//! the whole text is in memory. (`serde_json`'s `RawValue` cuts as well, but ends at the first element that is not well
//! formed.)

use std::io::Cursor;
use std::ops::Range;
use std::path::Path;

use super::content::Content;
use super::{Format, RawRow, RowSource, json_lines};
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format { is: |_, head| is_array(head) || may_hold_rows(head), open };

fn is_array(head: &[u8]) -> bool {
    head.trim_ascii_start().starts_with(b"[")
}

/// Whether a file may be an object with the rows under a key: it begins so, and not with a field of a row.
fn may_hold_rows(head: &[u8]) -> bool {
    let text = head.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let lists = Lists::find(text);
    lists.alone != Some(false) && !lists.is_row && lists.rows.iter().any(|list| list.of_objects)
}

struct JsonDocument {
    text: String,
    /// The elements, the last one first.
    left: Vec<Element>,
}

fn open<'a>(path: &Path, content: Content<'a>) -> Result<Box<dyn RowSource + 'a>> {
    let text = content.into_text(path)?;
    let mut left = if is_array(text.as_bytes()) {
        elements(&text, 0, 1)
    } else {
        let lists = Lists::find(&text);
        // More than one object, or a row: each line is one, or is told why not.
        if lists.alone != Some(true) || lists.is_row {
            return Ok(json_lines::open(path, Box::new(Cursor::new(text.into_bytes()))));
        }
        let of_objects: Vec<&List<'_>> = lists.rows.iter().filter(|list| list.of_objects).collect();
        match of_objects.as_slice() {
            [list] => elements(&text[..list.range.end], list.range.start, list.line),
            _ => {
                let names: Vec<String> = of_objects.iter().map(|list| format!("`{}`", list.key)).collect();
                let problem = format!("lists of objects stand under several keys: {}", names.join(", "));
                return Err(Error::file(path, problem)
                    .with_hint("write the list that holds the rows into a file of its own"));
            }
        }
    };
    left.reverse();
    Ok(Box::new(JsonDocument { text, left }))
}

impl RowSource for JsonDocument {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let text = |range: Option<Range<usize>>| range.map_or(",", |range| self.text[range].trim_end());
        Ok(self.left.pop().map(|element| RawRow::json(element.line, text(element.range))))
    }
}

/// Keys of rows. An object that has one is a row itself, whatever lists it holds.
const OF_ROWS: &[&str] = &[
    "messages",
    "conversations",
    "prompt",
    "completion",
    "instruction",
    "output",
    "text",
    "input_ids",
    "chosen",
    "rejected",
    "tools",
];

/// Whether the list's first object is a message: then the list is a chat, and not the rows.
fn is_message(first: &str) -> bool {
    let Some(inner) = first.strip_prefix('{') else { return false };
    let key = inner.trim_ascii_start();
    ["\"role\"", "\"from\"", "\"content\"", "\"value\""].iter().any(|name| key.starts_with(name))
}

/// A list under a key of the outermost object.
struct List<'a> {
    key: &'a str,
    line: usize,
    range: Range<usize>,
    of_objects: bool,
}

/// The lists that stand directly in an object.
#[derive(Default)]
struct Lists<'a> {
    rows: Vec<List<'a>>,
    /// Whether the object is a row itself.
    is_row: bool,
    /// Whether nothing follows the object; none if it does not end.
    alone: Option<bool>,
}

impl<'a> Lists<'a> {
    fn find(text: &'a str) -> Lists<'a> {
        let mut lists = Lists::default();
        let start = text.len() - text.trim_start().len();
        if !text[start..].starts_with('{') {
            return lists;
        }
        let (mut depth, mut line) = (0_usize, 1);
        // The last text at depth 1, which is a key when a colon follows.
        let (mut key, mut last) = ("", "");
        let mut string: Option<usize> = None;
        let mut escaped = false;
        for (at, b) in text.bytes().enumerate().skip(start) {
            line += usize::from(b == b'\n');
            if let Some(from) = string {
                if b == b'"' && !escaped {
                    string = None;
                    if depth == 1 {
                        last = &text[from..at];
                    }
                }
                escaped = b == b'\\' && !escaped;
                continue;
            }
            match b {
                b'"' => (string, escaped) = (Some(at + 1), false),
                b':' if depth == 1 => {
                    key = last;
                    lists.is_row |= OF_ROWS.contains(&key);
                }
                b'[' | b'{' => {
                    if depth == 1 && b == b'[' {
                        let first = text[at + 1..].trim_ascii_start();
                        let of_objects = first.starts_with('{');
                        lists.is_row |= is_message(first);
                        lists.rows.push(List { key, line, range: at..text.len(), of_objects });
                    }
                    depth += 1;
                }
                b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 1 && b == b']' {
                        lists
                            .rows
                            .iter_mut()
                            .next_back()
                            .into_iter()
                            .for_each(|list| list.range.end = at + 1);
                    }
                    if depth == 0 {
                        lists.alone = Some(text[at + 1..].trim().is_empty());
                        return lists;
                    }
                }
                _ => {}
            }
        }
        lists
    }
}

/// An element of the array.
struct Element {
    line: usize,
    /// Where it is; none stands for text behind the array, which is no row whatever it says.
    range: Option<Range<usize>>,
}

/// The elements of the array that begins at `start`, in this line. What is not well formed comes out as an element too, for
/// the parser to complain about.
fn elements(text: &str, start_at: usize, mut line: usize) -> Vec<Element> {
    let mut rows = Vec::new();
    let of = |line, range| Element { line, range: Some(range) };
    let mut depth = 0_usize;
    let (mut in_string, mut escaped) = (false, false);
    // Start of the current element and its line.
    let mut start: Option<(usize, usize)> = None;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at < start_at) {
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
