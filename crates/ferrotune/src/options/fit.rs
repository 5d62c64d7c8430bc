//! Reading values by a schema: tolerant in notation, strict in content.
//!
//! Keys and words are read under any of their names, numbers also as YAML 1.1 leaves them (`1e-4`, `1_000`), one value in
//! the place of a list of one. What comes out has the declared names and types, so serde can read it. Every refusal names
//! the key as it was written, what was found and what was expected.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::schema::{aliases, expected, is_section, join, kinds, properties, range, words_in};
use crate::{Error, Result};

/// The value of a key (`path`) in the names and types that the schema declares. Null stays: it means "as if absent".
pub(crate) fn fit(schema: &Value, value: Value, path: &str) -> Result<Value> {
    // A value of any kind, such as a variable of a template.
    if schema == &Value::Bool(true) {
        return Ok(value);
    }
    if is_section(schema) {
        return section(schema, value, path);
    }
    if let Some(inner) = schema.pointer("/anyOf/0") {
        return fit(inner, value, path);
    }
    let refused = || refuse(path, &value, &expected(schema));
    if schema.get("oneOf").is_some() {
        return word(schema, &value, path);
    }
    let kinds = kinds(schema);
    let fitted = match kinds[..] {
        ["integer"] => whole(&value).filter(|n| in_width(schema, *n)).map(Value::from),
        ["number"] => number(&value).map(Value::from),
        ["boolean"] => flag(&value).map(Value::from),
        ["string"] => text(&value).map(Value::from),
        ["array"] => return list(schema, value, path),
        ["object"] => return mapping(schema, value, path),
        _ => kinds.contains(&kind_of(&value)).then(|| value.clone()),
    };
    match fitted {
        Some(list @ Value::Array(_)) => self::list(schema, list, path),
        Some(value) => in_range(schema, value, path),
        None => Err(refused()),
    }
}

/// Reads a fitted tree, of which null is as good as absent; what serde refuses is named by its key.
pub(crate) fn read<T: DeserializeOwned>(mut tree: Value) -> Result<T> {
    drop_nulls(&mut tree);
    serde_path_to_error::deserialize(tree)
        .map_err(|e| Error::config(e.path().to_string(), e.inner().to_string()))
}

fn drop_nulls(tree: &mut Value) {
    if let Value::Object(map) = tree {
        map.retain(|_, value| !value.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

/// Puts a fitted tree over another: section by section, whole values.
pub(crate) fn merge(schema: &Value, below: &mut Value, above: Value) {
    match (is_section(schema), below, above) {
        (true, _, Value::Null) => {}
        (true, Value::Object(below), Value::Object(above)) => {
            for (name, value) in above {
                let schema = &schema["properties"][&name];
                merge(schema, below.entry(name).or_insert(Value::Null), value);
            }
        }
        (_, below, above) => *below = above,
    }
}

fn section(schema: &Value, value: Value, path: &str) -> Result<Value> {
    let map = match value {
        Value::Object(map) => map,
        Value::Null => return Ok(Value::Null),
        other => return Err(refuse(path, &other, "keys and values")),
    };
    let mut fitted = Map::new();
    let mut written: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in map {
        let named = |(own, key): &(&String, &Value)| **own == name || aliases(key).any(|alias| alias == name);
        let Some((own, key)) = properties(schema).find(named) else {
            return Err(unknown(schema, path, &name));
        };
        let at = join(path, &name);
        let value = if value.is_null() { value } else { fit(key, value, &at)? };
        if let Some(first) = written.insert(own, at.clone()) {
            let (alias, other) = if name == *own { (first, at) } else { (at, first) };
            return Err(Error::config(alias, format!("the same setting as `{other}`"))
                .with_hint("keep one of the two"));
        }
        fitted.insert(own.clone(), value);
    }
    Ok(fitted.into())
}

fn unknown(schema: &Value, path: &str, name: &str) -> Error {
    let own = || properties(schema).map(|(own, _)| own.as_str());
    let all = properties(schema).flat_map(|(own, key)| std::iter::once(own.as_str()).chain(aliases(key)));
    let hint = match nearest(name, all) {
        Some(near) => format!("did you mean `{}`?", join(path, near)),
        None => format!("known here: {}", own().collect::<Vec<_>>().join(", ")),
    };
    Error::config(join(path, name), "unknown key").with_hint(hint)
}

fn word(schema: &Value, value: &Value, path: &str) -> Result<Value> {
    let written = match value {
        Value::String(word) => word.to_ascii_lowercase(),
        Value::Bool(on) => on.to_string(),
        _ => String::new(),
    };
    let words = words_in(schema);
    if let Some(found) = words.iter().find(|w| w.word == written || w.aliases.contains(&written)) {
        return Ok(found.word.as_str().into());
    }
    let all = words.iter().flat_map(|w| std::iter::once(&w.word).chain(&w.aliases)).map(String::as_str);
    let meant = words.iter().map(|w| format!("{}: {}", w.word, w.meaning)).collect::<Vec<_>>().join(" ");
    let hint = nearest(&written, all).map_or(meant, |near| format!("did you mean `{near}`?"));
    Err(refuse(path, value, &expected(schema)).with_hint(hint))
}

fn list(schema: &Value, value: Value, path: &str) -> Result<Value> {
    let length = |key: &str| schema.get(key).and_then(Value::as_u64);
    let items = match value {
        Value::Array(items) => items,
        one if length("minItems").is_none() => vec![one],
        other => return Err(refuse(path, &other, &expected(schema))),
    };
    let count = items.len() as u64;
    if length("minItems").is_some_and(|least| count < least)
        || length("maxItems").is_some_and(|most| count > most)
    {
        return Err(refuse(path, &Value::Array(items), &expected(schema)));
    }
    let of = schema.get("items").unwrap_or(&Value::Null);
    items.into_iter().map(|item| fit(of, item, path)).collect::<Result<Vec<_>>>().map(Value::from)
}

fn mapping(schema: &Value, value: Value, path: &str) -> Result<Value> {
    let Value::Object(map) = value else { return Err(refuse(path, &value, &expected(schema))) };
    let of = schema.get("additionalProperties").unwrap_or(&Value::Null);
    let one = |(key, value): (String, Value)| {
        let value = fit(of, value, &join(path, &key))?;
        Ok((key, value))
    };
    map.into_iter().map(one).collect::<Result<Map<_, _>>>().map(Value::from)
}

fn in_range(schema: &Value, value: Value, path: &str) -> Result<Value> {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(among) = schema.get("enum").and_then(Value::as_array)
        && !among.contains(&value)
    {
        return Err(refuse(path, &value, &expected(schema)));
    }
    if let (Some(least), Some(text)) = (limit("minLength"), value.as_str())
        && (text.chars().count() as f64) < least
    {
        return Err(refuse(path, &value, &expected(schema)));
    }
    let Some(n) = value.as_f64() else { return Ok(value) };
    let inside = limit("minimum").is_none_or(|least| n >= least)
        && limit("maximum").is_none_or(|most| n <= most)
        && limit("exclusiveMinimum").is_none_or(|below| n > below)
        && limit("exclusiveMaximum").is_none_or(|above| n < above);
    match (inside, range(schema)) {
        (false, Some(range)) if range.starts_with("at least") => Err(refuse(path, &value, &range)),
        (false, _) => Err(refuse(path, &value, &expected(schema))),
        (true, _) => Ok(value),
    }
}

/// A refusal of a value.
fn refuse(path: &str, found: &Value, expected: &str) -> Error {
    Error::config(path, format!("found {}, expected {expected}", described(found)))
}

/// The JSON type of a value.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The known name that a mistyped one most likely meant.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_ascii_lowercase().replace('-', "_");
    let name = plain(name);
    known
        .map(|k| (strsim::damerau_levenshtein(&name, &plain(k)), k))
        .filter(|(distance, k)| *distance <= 1 + k.len().min(name.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// A value in the words of an error message.
pub(crate) fn described(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_string(),
        Value::Bool(on) => on.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a mapping".to_string(),
    }
}

/// A number, also one that YAML leaves as text (`1e-4` in YAML 1.1).
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .filter(|n: &f64| n.is_finite())
}

/// A whole number, also as `1e3` or `1_000`.
fn whole(value: &Value) -> Option<u64> {
    if let Some(n) = value.as_u64() {
        return Some(n);
    }
    let n = match value {
        Value::String(text) => text.replace('_', "").parse().ok()?,
        other => number(other)?,
    };
    (n >= 0.0 && n.fract() == 0.0 && n <= 9_007_199_254_740_992.0).then_some(n as u64)
}

/// Whether a whole number fits the declared type.
fn in_width(schema: &Value, n: u64) -> bool {
    match schema.get("format").and_then(Value::as_str) {
        Some("uint32") => u32::try_from(n).is_ok(),
        Some("uint") => usize::try_from(n).is_ok(),
        _ => true,
    }
}

/// True or false, in YAML's old spellings too.
fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::String(word) => match word.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Text; a number is taken as it is written, so that a revision of digits needs no quotes.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}
