//! Rows that a program has in memory.

use serde_json::Value;

use super::{Fields, RawRow, RowSource, kind};
use crate::Result;

/// Rows from anything that gives values, such as a list or a database cursor.
#[derive(Debug)]
pub struct InMemory<I> {
    rows: I,
    number: usize,
}

impl<I: Iterator<Item = Value>> InMemory<I> {
    /// The rows in their order.
    pub fn new(rows: impl IntoIterator<IntoIter = I>) -> Self {
        InMemory { rows: rows.into_iter(), number: 0 }
    }
}

impl<I: Iterator<Item = Value>> RowSource for InMemory<I> {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let Some(row) = self.rows.next() else { return Ok(None) };
        self.number += 1;
        let fields: std::result::Result<Fields, _> = match row {
            Value::Object(fields) => Ok(fields),
            other => Err((format!("found {}, expected an object", kind(&other)), None)),
        };
        Ok(Some(RawRow::new(self.number, fields)))
    }
}
