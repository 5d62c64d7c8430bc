//! The fields of a row, and what is said of them.

use serde_json::Value;

pub(super) use super::super::rows::{Fields, Problem, kind};

/// The shapes in the words of a hint.
pub(crate) const KNOWN: &str = "known rows: {\"messages\": [...]}, {\"conversations\": [...]}, {\"prompt\", \"completion\"}, \
                                {\"instruction\", \"input\", \"output\"}, {\"text\"}, {\"input_ids\", \"labels\"}, \
                                {\"question\", \"answer\"} and the like";

/// A problem without a hint.
pub(super) fn problem<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err((text.into(), None))
}

/// What a row has, in the words of a message.
pub(super) fn found(fields: &Fields) -> String {
    if fields.is_empty() {
        return "found an empty object".to_string();
    }
    let name = |(name, value): (&String, &Value)| match value {
        Value::Null => format!("`{name}` (null)"),
        _ => format!("`{name}`"),
    };
    let names: Vec<String> = fields.iter().take(12).map(name).collect();
    format!("found {}", names.join(", "))
}

/// A field that must be there; null is like absent.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> Result<&'a Value, Problem> {
    let given = fields.get(name).filter(|value| !value.is_null());
    given.ok_or_else(|| (format!("no `{name}`: {}", found(fields)), Some(KNOWN.to_string())))
}

/// Text that must be there.
pub(super) fn text<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Problem> {
    match field(fields, name)? {
        Value::String(text) => Ok(text),
        other => problem(format!("`{name}` is {}, expected text", kind(other))),
    }
}

/// Text that may be missing or null.
pub(super) fn optional<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Problem> {
    if fields.get(name).is_none_or(Value::is_null) { Ok("") } else { text(fields, name) }
}
