//! Python's `json.dumps`, as the filter `tojson` of chat templates.

use super::python::{MAX_DEPTH, MAX_TEXT, from_json, invalid, pairs, push, to_str, write_number};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};
use std::fmt::Write as _;

/// How `json.dumps` was asked to write.
struct Dumps {
    indent: Option<String>,
    item: String,
    key: String,
    sort: bool,
    ascii: bool,
}

pub(super) fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(v) if v.kind() == ValueKind::None => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(usize::try_from(v)?.min(64)),
        }),
    };
    let separators = kwargs.get::<Option<Vec<String>>>("separators")?.unwrap_or_default();
    let json = Dumps {
        item: match separators.first() {
            Some(text) => text.clone(),
            None if indent.is_some() => ",".to_string(),
            None => ", ".to_string(),
        },
        key: separators.get(1).cloned().unwrap_or_else(|| ": ".to_string()),
        indent,
        sort: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    json.write(&mut out, value, 0)?;
    Ok(Value::from(out))
}

/// A value as `json.dumps` writes it when nothing else is asked for, but with letters beyond ASCII as they are.
pub(crate) fn dumped(value: &serde_json::Value) -> Result<String, Error> {
    let json = Dumps { indent: None, item: ", ".into(), key: ": ".into(), sort: false, ascii: false };
    let mut out = String::new();
    json.write(&mut out, &from_json(value), 0)?;
    Ok(out)
}

impl Dumps {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("nested too deeply for JSON"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match f64::try_from(value.clone()) {
                Ok(n) if !value.is_integer() && n.is_nan() => out.push_str("NaN"),
                Ok(n) if !value.is_integer() && n.is_infinite() => {
                    out.push_str(if n > 0.0 { "Infinity" } else { "-Infinity" });
                }
                _ => write_number(out, value),
            },
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container(out, ["[", "]"], &items, depth, |out, item| self.write(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for (key, item) in pairs(value) {
                    let key = match key.kind() {
                        ValueKind::String | ValueKind::Number => to_str(&key)?,
                        ValueKind::None => "null".to_string(),
                        ValueKind::Bool => to_str(&key)?.to_lowercase(),
                        kind => return Err(invalid(format!("{kind} cannot be a JSON key"))),
                    };
                    items.push((key, item));
                }
                if self.sort {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.container(out, ["{", "}"], &items, depth, |out, (key, item)| {
                    self.string(out, key)?;
                    out.push_str(&self.key);
                    self.write(out, item, depth + 1)
                })?;
            }
            kind => return Err(invalid(format!("a value of type {kind} cannot be written as JSON"))),
        }
        Ok(())
    }

    fn container<T>(
        &self,
        out: &mut String,
        brackets: [&str; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |out: &mut String, depth: usize| {
            if let Some(indent) = self.indent.as_ref().filter(|_| !items.is_empty()) {
                out.push('\n');
                (0..depth).for_each(|_| out.push_str(indent));
            }
        };
        push(out, brackets[0])?;
        for (i, item) in items.iter().enumerate() {
            push(out, if i > 0 { &self.item } else { "" })?;
            line(out, depth + 1);
            write(out, item)?;
        }
        line(out, depth);
        out.push_str(brackets[1]);
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) -> Result<(), Error> {
        push(out, "\"")?;
        if out.len() + text.len() > MAX_TEXT {
            return Err(invalid("the text becomes too long"));
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
                c if (c as u32) < 0x20 || (self.ascii && !c.is_ascii()) => {
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
