//! Typed access to a JSON object; every refusal names the file and the key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// An object of a `config.json`.
pub(crate) struct Keys<'a> {
    pub(crate) path: &'a Path,
    pub(crate) object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("`{key}`: {problem}"))
    }

    pub(crate) fn missing(&self, key: &str) -> Error {
        self.bad(key, "missing")
    }

    /// The family that the file names, for messages.
    pub(crate) fn family(&self) -> &'a str {
        self.object.get("model_type").and_then(Value::as_str).unwrap_or("nameless")
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is there, be it as `null`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| v.as_str().ok_or_else(|| self.bad(key, format!("{v} is not a string"))))
            .transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|v| v.as_bool().ok_or_else(|| self.bad(key, format!("{v} is not true or false"))))
            .transpose()
    }

    /// A finite number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| v.as_f64().ok_or_else(|| self.bad(key, format!("{v} is not a number"))))
            .transpose()
    }

    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| {
                let number = v.as_f64().filter(|n| n.is_finite() && *n > 0.0);
                number.ok_or_else(|| self.bad(key, format!("{v} is not a positive number")))
            })
            .transpose()
    }

    /// A size from 1 to 2^31; products of two of them then fit in 64 bits.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                // Some configs write 4096.0.
                let number = v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as u64));
                let number = number.filter(|n| (1..=1 << 31).contains(n));
                number.map(|n| n as usize).ok_or_else(|| self.bad(key, format!("{v} is not a size")))
            })
            .transpose()
    }

    /// A whole number from 0.
    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        let count = |v: &Value| v.as_u64().map(|n| n as usize);
        self.get(key)
            .map(|v| count(v).ok_or_else(|| self.bad(key, format!("{v} is not a whole number"))))
            .transpose()
    }

    /// The first of these keys that is stated: names of one size in different versions.
    pub(crate) fn first_size(&self, keys: [&str; 2]) -> Result<Option<usize>> {
        let stated = keys.into_iter().find(|key| self.get(key).is_some());
        stated.map_or(Ok(None), |key| self.optional_size(key))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A list of numbers, all positive.
    pub(crate) fn positives(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let positive = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
        match value.as_array().map(|list| list.iter().map(positive).collect::<Option<Vec<f32>>>()) {
            Some(Some(list)) if !list.is_empty() => Ok(Some(list)),
            _ => Err(self.bad(key, "not a list of positive numbers")),
        }
    }

    /// A list of whole numbers from 0.
    pub(crate) fn indices(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().map(|l| l.iter().map(|v| v.as_u64().map(|v| v as usize)).collect());
        match list {
            Some(Some(list)) => Ok(Some(list)),
            _ => Err(self.bad(key, format!("{value} is not a list of whole numbers"))),
        }
    }

    /// A token id or a list of them; -1 stands for none in some configs.
    pub(crate) fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) => {
                token_ids(value).ok_or_else(|| self.bad(key, format!("{value} is not a token id or a list")))
            }
        }
    }
}

/// A token id or a list of token ids; negative ids mean none. `None` if it is neither.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(list) => list.iter().map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect(),
        one => match one.as_i64()? {
            n if n < 0 => Some(Vec::new()),
            n => Some(vec![u32::try_from(n).ok()?]),
        },
    }
}
