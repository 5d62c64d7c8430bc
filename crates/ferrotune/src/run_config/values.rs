//! Values of the run file that have notations of their own: rows to evaluate on, sizes of memory.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::options::described;

/// Rows to evaluate on.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum EvalSource {
    /// None.
    #[default]
    None,
    /// A share of the training rows, between 0 and 1, kept out of training.
    Share(f64),
    /// Files of their own.
    Files(Vec<String>),
}

const ROWS: &str = "a share such as 5%, a file or a list of files";

impl EvalSource {
    fn of(value: &Value) -> Option<Self> {
        let share = |n: f64| if n == 0.0 { EvalSource::None } else { EvalSource::Share(n) };
        match value {
            Value::Null | Value::Bool(false) => Some(EvalSource::None),
            Value::String(text) if text == "none" => Some(EvalSource::None),
            Value::String(text) => match text.trim().strip_suffix('%') {
                Some(percent) => percent.trim().parse().ok().map(|n: f64| EvalSource::Share(n / 100.0)),
                None => Some(
                    text.parse().map_or_else(|_| EvalSource::Files(vec![text.clone()]), EvalSource::Share),
                ),
            },
            Value::Number(n) => n.as_f64().map(share),
            Value::Array(_) => Vec::deserialize(value).ok().map(EvalSource::Files),
            Value::Bool(true) | Value::Object(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for EvalSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        EvalSource::of(&value).ok_or_else(|| D::Error::custom(refusal(&value, ROWS)))
    }
}

impl Serialize for EvalSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            EvalSource::None => serializer.serialize_none(),
            EvalSource::Share(share) => serializer.serialize_f64(*share),
            EvalSource::Files(files) => files.serialize(serializer),
        }
    }
}

impl JsonSchema for EvalSource {
    fn schema_name() -> Cow<'static, str> {
        "EvalSource".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "number", "array", "boolean", "null"],
            "items": {"type": "string"},
            "x-expected": ROWS,
        })
    }
}

/// A number of bytes, in a file also as a size such as `8GiB`.
#[derive(Clone, Copy)]
pub(super) struct Bytes(u64);

const SIZE: &str = "a number of bytes or a size such as 8GiB";

impl Bytes {
    /// A size in a field of another type.
    pub(super) fn field<'de, D: Deserializer<'de>, T: From<Bytes>>(deserializer: D) -> Result<T, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Bytes::of(&value).map(T::from).ok_or_else(|| D::Error::custom(refusal(&value, SIZE)))
    }

    /// `8GiB`, `500 MB`, `123456`.
    fn of(value: &Value) -> Option<Self> {
        if let Some(n) = value.as_u64() {
            return Some(Bytes(n));
        }
        let text = value.as_str()?.trim();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let amount: f64 = text[..split].trim().parse().ok()?;
        let unit: f64 = match text[split..].to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1_048_576.0,
            "g" | "gib" => 1_073_741_824.0,
            "t" | "tib" => 1_099_511_627_776.0,
            _ => return None,
        };
        let total = amount * unit;
        (0.0..9e15).contains(&total).then_some(Bytes(total as u64))
    }
}

impl From<Bytes> for u64 {
    fn from(bytes: Bytes) -> u64 {
        bytes.0
    }
}

impl From<Bytes> for Option<u64> {
    fn from(bytes: Bytes) -> Option<u64> {
        Some(bytes.0)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"], "x-expected": SIZE, "x-unit": "bytes"})
    }
}

fn refusal(found: &Value, expected: &str) -> String {
    format!("found {}, expected {expected}", described(found))
}
