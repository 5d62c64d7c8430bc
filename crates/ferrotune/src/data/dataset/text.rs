//! Values as they come out of files of columns: JSON kept as text, and nulls where a row lacks what others have.

use super::fields::{Problem, kind, problem};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// JSON that a column holds as text.
pub(super) fn parsed(text: &str, name: &str) -> Result<Value, Problem> {
    crate::json::from_text(text).map_err(|e| {
        let hint = format!("write `{name}` as JSON, or as the text of valid JSON");
        (format!("`{name}` is text but not JSON: {} at column {}", e.problem, e.column), Some(hint))
    })
}

/// A list, or the text of one. Nulls inside a list are of the file and go; in a text they were written.
pub(super) fn list<'a>(value: &'a Value, name: &str) -> Result<Cow<'a, [Value]>, Problem> {
    match value {
        Value::String(text) => match parsed(text, name)? {
            Value::Array(list) => Ok(Cow::Owned(list)),
            other => problem(format!("`{name}` is the text of {}, expected a list", kind(&other))),
        },
        Value::Array(list) if list.iter().any(has_null_field) => {
            Ok(Cow::Owned(list.iter().map(without_nulls).collect()))
        }
        Value::Array(list) => Ok(Cow::Borrowed(list)),
        other => problem(format!("`{name}` is {}, expected a list", kind(other))),
    }
}

fn has_null_field(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_null_field),
        Value::Object(fields) => fields.values().any(|value| value.is_null() || has_null_field(value)),
        _ => false,
    }
}

/// The value without fields that are null. A null in a list stays: files of columns add none.
pub(super) fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_nulls(value))).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// The messages that a text holds as JSON, if that is what it looks like: a list whose items have a role.
pub(super) fn messages_in(text: &str, name: &str) -> Result<Option<Vec<Value>>, Problem> {
    let start = text.trim_start();
    let inner = start.strip_prefix('[').map(str::trim_start).and_then(|rest| rest.strip_prefix('{'));
    let Some(inner) = inner else { return Ok(None) };
    let inner = inner.trim_start();
    if !["\"role\"", "\"content\"", "\"from\"", "\"value\""].iter().any(|key| inner.starts_with(key)) {
        return Ok(None);
    }
    let Value::Array(list) = parsed(text, name)? else { return Ok(None) };
    let is_message = |m: &Value| {
        let has = |key: &str| m.get(key).is_some();
        (has("role") && (has("content") || has("tool_calls"))) || (has("from") && has("value"))
    };
    Ok((!list.is_empty() && list.iter().all(is_message)).then_some(list))
}
