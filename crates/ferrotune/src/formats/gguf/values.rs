//! Values of the metadata by key and type; every refusal names the file and the key.

use super::file::{GgufFile, Meta, Reader};
use crate::Result;

impl GgufFile {
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Meta::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(key, "not a string")),
        }
    }

    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Meta::Unsigned(n)) => Ok(Some(*n)),
            Some(Meta::Signed(n)) if *n >= 0 => Ok(Some(*n as u64)),
            Some(Meta::Array { .. }) => self.uniform(key),
            Some(_) => Err(self.bad(key, "not a count")),
        }
    }

    /// The value of an array that has one for each layer, where all are the same.
    fn uniform(&self, key: &str) -> Result<Option<u64>> {
        match self.counts(key)?.as_deref() {
            Some([first, rest @ ..]) if rest.iter().all(|v| v == first) => Ok(Some(*first)),
            _ => Err(self.bad(key, "an array with another value for each layer is not supported")),
        }
    }

    /// An array of counts, or a count by itself.
    pub(super) fn counts(&self, key: &str) -> Result<Option<Vec<u64>>> {
        match self.meta.get(key) {
            Some(Meta::Array { kind: 4, .. }) => {
                self.array(key, 4, "counts", |r| r.u32("a count").map(u64::from))
            }
            Some(Meta::Array { .. }) => {
                let count =
                    |n: i32| u64::try_from(n).map_err(|_| self.bad(key, format!("{n} is not a count")));
                self.integers(key)?.map(|all| all.into_iter().map(count).collect()).transpose()
            }
            _ => Ok(self.unsigned(key)?.map(|n| vec![n])),
        }
    }

    /// An array of booleans.
    pub(super) fn flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        self.array(key, 7, "booleans", |reader| Ok(reader.take::<1>("a boolean")?[0] != 0))
    }

    /// A float as the decimal number that was meant: 1e-5, not the f32 next to it.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Meta::F32(v)) => Ok(Some(v.to_string().parse().unwrap_or(*v as f64))),
            Some(Meta::F64(v)) => Ok(Some(*v)),
            Some(_) => Err(self.bad(key, "not a float")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Meta::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(self.bad(key, "not a boolean")),
        }
    }

    /// An array of strings.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        self.array(key, 8, "strings", |reader| reader.text("a string of an array"))
    }

    /// An array of 32-bit floats.
    pub(super) fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.array(key, 6, "32-bit floats", |reader| Ok(f32::from_le_bytes(reader.take("a float")?)))
    }

    /// An array of 32-bit integers.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.array(key, 5, "32-bit integers", |reader| Ok(i32::from_le_bytes(reader.take("an integer")?)))
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        expected: u32,
        what: &str,
        mut read: impl FnMut(&mut Reader<'a>) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        match self.meta.get(key) {
            None => Ok(None),
            Some(Meta::Array { kind, count, range }) if *kind == expected => {
                let mut reader =
                    Reader { path: &self.path, bytes: &self.file.as_slice()[..range.end], at: range.start };
                (0..*count).map(|_| read(&mut reader)).collect::<Result<Vec<T>>>().map(Some)
            }
            Some(_) => Err(self.bad(key, format!("not an array of {what}"))),
        }
    }
}
