//! Python's `json.dumps`, as the filter `tojson` of chat templates.

use super::arguments::{Given, int};
use super::compare::order;
use super::repr::float;
use super::runtime::{MAX_TEXT, Result, fail, push};
use super::value::{MAX_DEPTH, Value};
use std::fmt::Write as _;

/// How `json.dumps` was asked to write.
struct Dumps {
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
    ascii: bool,
}

/// The filter `tojson`.
pub(super) fn to_json(value: &Value, given: Given) -> Result<Value> {
    let [ascii, indent, separators, sort] =
        given.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"], 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.text.to_string()),
        Some(width) => Some(" ".repeat(usize::try_from(int(&width)?.clamp(0, 10_000)).unwrap_or(0))),
    };
    let mut json = Dumps {
        item: if indent.is_some() { "," } else { ", " }.to_string(),
        key: ": ".to_string(),
        indent,
        sort: sort.is_some_and(|sort| sort.truth()),
        ascii: ascii.is_some_and(|ascii| ascii.truth()),
    };
    if let Some(separators) = separators.filter(|given| !matches!(given, Value::None)) {
        let parts = separators.items()?;
        let (Some(item), Some(key), 2) =
            (parts.first().and_then(Value::as_str), parts.get(1).and_then(Value::as_str), parts.len())
        else {
            return fail("the separators of tojson are two texts");
        };
        (json.item, json.key) = (item.to_string(), key.to_string());
    }
    let mut out = String::new();
    json.write(&mut out, value, 0)?;
    Ok(Value::str(out))
}

/// A value as `json.dumps` writes it when nothing else is asked for, but with letters beyond ASCII as they are.
/// Nothing if it nests too deeply or becomes too long.
pub(crate) fn dumped(value: &serde_json::Value) -> Option<String> {
    let json = Dumps { indent: None, item: ", ".into(), key: ": ".into(), sort: false, ascii: false };
    let mut out = String::new();
    json.write(&mut out, &Value::from_json(value), 0).ok().map(|()| out)
}

/// A number as JSON has it, with the words of Python for what JSON has not.
fn number(value: f64) -> String {
    match (value.is_nan(), value.is_infinite()) {
        (true, _) => "NaN".to_string(),
        (_, true) => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_string(),
        _ => float(value),
    }
}

impl Dumps {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return fail("nested too deeply for JSON");
        }
        match value {
            Value::None => push(out, "null"),
            Value::Bool(b) => push(out, if *b { "true" } else { "false" }),
            Value::Int(n) => push(out, &n.to_string()),
            Value::Float(n) => push(out, &number(*n)),
            Value::Str(text) => self.string(out, &text.text),
            Value::List(items) | Value::Tuple(items) => {
                self.container(out, ["[", "]"], items, depth, |out, item| self.write(out, item, depth + 1))
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.iter().collect();
                if self.sort {
                    self.sort(&mut entries)?;
                }
                self.container(out, ["{", "}"], &entries, depth, |out, (key, item)| {
                    let key = match key {
                        Value::Str(text) => text.text.to_string(),
                        Value::None => "null".to_string(),
                        Value::Bool(b) => b.to_string(),
                        Value::Int(n) => n.to_string(),
                        Value::Float(n) => number(*n),
                        other => {
                            let found = other.type_name();
                            return fail(format!("keys must be str, int, float, bool or None, not {found}"));
                        }
                    };
                    self.string(out, &key)?;
                    push(out, &self.key)?;
                    self.write(out, item, depth + 1)
                })
            }
            other => fail(format!("Object of type {} is not JSON serializable", other.type_name())),
        }
    }

    fn sort(&self, entries: &mut [&(Value, Value)]) -> Result<()> {
        let mut failure = None;
        entries.sort_by(|(a, _), (b, _)| match order(a, b, "<") {
            Ok(found) => found.unwrap_or(std::cmp::Ordering::Equal),
            Err(problem) => {
                failure.get_or_insert(problem);
                std::cmp::Ordering::Equal
            }
        });
        failure.map_or(Ok(()), Err)
    }

    fn container<T>(
        &self,
        out: &mut String,
        brackets: [&str; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut String, &T) -> Result<()>,
    ) -> Result<()> {
        let line = |out: &mut String, depth: usize| -> Result<()> {
            if let Some(indent) = self.indent.as_ref().filter(|_| !items.is_empty()) {
                push(out, "\n")?;
                (0..depth).try_for_each(|_| push(out, indent))?;
            }
            Ok(())
        };
        push(out, brackets[0])?;
        for (i, item) in items.iter().enumerate() {
            push(out, if i > 0 { &self.item } else { "" })?;
            line(out, depth + 1)?;
            write(out, item)?;
        }
        line(out, depth)?;
        push(out, brackets[1])
    }

    fn string(&self, out: &mut String, text: &str) -> Result<()> {
        push(out, "\"")?;
        if out.len() + text.len() > MAX_TEXT {
            return fail("the text becomes too long");
        }
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}
