//! Values of a template: Python's, as far as the sandbox of a chat template lets one make them.

use super::object::Object;
use super::runtime::{Result, fail};
use serde_json::Value as Json;
use std::ops::Range;
use std::rc::Rc;

/// Containers nested deeper are refused: no real message is, and a template must not exhaust the stack.
pub(super) const MAX_DEPTH: usize = 100;

/// Keys of a dict that a template makes.
const MAX_KEYS: usize = 10_000;

/// A text, with the byte ranges of it that generation blocks wrote.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: Rc<str>,
    pub(super) spans: Option<Rc<[Range<usize>]>>,
}

/// One value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// What a missing variable or field gives; the text says what is missing.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Vec<Value>>),
    Tuple(Rc<Vec<Value>>),
    Dict(Rc<Dict>),
    Object(Rc<Object>),
}

/// A dict in the order of its insertions.
#[derive(Clone, Debug, Default)]
pub(super) struct Dict {
    entries: Vec<(Value, Value)>,
}

impl Value {
    pub(super) fn undefined(what: impl AsRef<str>) -> Value {
        Value::Undefined(what.as_ref().into())
    }

    pub(super) fn str(text: impl AsRef<str>) -> Value {
        Value::Str(Text { text: text.as_ref().into(), spans: None })
    }

    pub(super) fn list(items: Vec<Value>) -> Value {
        Value::List(Rc::new(items))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Value {
        Value::Tuple(Rc::new(items))
    }

    pub(super) fn dict(dict: Dict) -> Value {
        Value::Dict(Rc::new(dict))
    }

    pub(super) fn object(object: Object) -> Value {
        Value::Object(Rc::new(object))
    }

    pub(super) fn size(count: usize) -> Value {
        Value::Int(count as i128)
    }

    /// A JSON value; objects keep their order.
    pub(super) fn from_json(json: &Json) -> Value {
        match json {
            Json::Null => Value::None,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => Value::Int(n.into()),
                (None, Some(n)) => Value::Int(n.into()),
                (None, None) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::str(text),
            Json::Array(items) => Value::list(items.iter().map(Value::from_json).collect()),
            Json::Object(fields) => {
                let entry = |(key, value): (&String, &Json)| (Value::str(key), Value::from_json(value));
                Value::dict(Dict { entries: fields.iter().map(entry).collect() })
            }
        }
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(&text.text),
            _ => None,
        }
    }

    /// The number behind an `int` or a `bool`.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i128::from(*b)),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Value::Float(n) => Some(*n),
            // Rounds to nearest, as Python does.
            other => other.as_int().map(|n| n as f64),
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Value::Undefined(_))
    }

    /// The name of the type, as Python's messages give it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Object(object) => object.type_name(),
        }
    }

    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(n) => *n != 0.0,
            Value::Str(text) => !text.text.is_empty(),
            Value::List(items) | Value::Tuple(items) => !items.is_empty(),
            Value::Dict(dict) => dict.len() > 0,
            Value::Object(object) => object.len().is_none_or(|len| len > 0),
        }
    }

    /// `len(value)`.
    pub(super) fn len(&self) -> Result<usize> {
        let len = match self {
            Value::Undefined(_) => Some(0),
            Value::Str(text) => Some(char_count(&text.text)),
            Value::List(items) | Value::Tuple(items) => Some(items.len()),
            Value::Dict(dict) => Some(dict.len()),
            Value::Object(object) => object.len(),
            _ => None,
        };
        len.ok_or(()).or_else(|()| fail(format!("object of type '{}' has no len()", self.type_name())))
    }

    /// The items of something that can be gone through; an iterator is used up by this.
    pub(super) fn items(&self) -> Result<Vec<Value>> {
        let items = match self {
            Value::Undefined(_) => Some(Vec::new()),
            Value::Str(text) => {
                Some(text.text.chars().map(|c| Value::str(c.encode_utf8(&mut [0; 4]))).collect())
            }
            Value::List(items) | Value::Tuple(items) => Some(items.as_ref().clone()),
            Value::Dict(dict) => Some(dict.keys().cloned().collect()),
            Value::Object(object) => object.items(),
            _ => None,
        };
        items.ok_or(()).or_else(|()| fail(format!("'{}' object is not iterable", self.type_name())))
    }

    pub(super) fn is_iterable(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) => true,
            Value::Object(object) => object.is_iterable(),
            _ => false,
        }
    }
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Value, Value)> {
        self.entries.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Value> {
        self.entries.iter().map(|(key, _)| key)
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }

    /// The value of a key; a key that cannot be hashed is an error.
    pub(super) fn get(&self, key: &Value) -> Result<Option<&Value>> {
        if let Some(name) = key.as_str() {
            return Ok(self.field(name));
        }
        hashable(key)?;
        Ok(self.entries.iter().find(|(other, _)| other.equals(key)).map(|(_, value)| value))
    }

    pub(super) fn set(&mut self, key: Value, value: Value) -> Result<()> {
        hashable(&key)?;
        let count = self.entries.len();
        match self.entries.iter_mut().find(|(other, _)| other.equals(&key)) {
            Some((_, old)) => *old = value,
            None if count >= MAX_KEYS => return fail("the dict becomes too large"),
            None => self.entries.push((key, value)),
        }
        Ok(())
    }
}

/// Lists and dicts cannot be keys.
pub(super) fn hashable(value: &Value) -> Result<()> {
    match value {
        Value::List(_) | Value::Dict(_) => fail(format!("unhashable type: '{}'", value.type_name())),
        Value::Tuple(items) => items.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}

pub(super) fn char_count(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// The characters from one index to another.
pub(super) fn char_range(text: &str, range: Range<usize>) -> &str {
    let at = |index: usize| match text.is_ascii() {
        true => index.min(text.len()),
        false => text.char_indices().nth(index).map_or(text.len(), |(at, _)| at),
    };
    &text[at(range.start)..at(range.end.max(range.start))]
}
