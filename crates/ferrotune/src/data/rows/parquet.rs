//! Parquet, read a row group at a time. Columns become the values that JSON would have; a null inside a structure says
//! only that another row has the field, so it is left out. The crate that reads the format panics on some damaged files;
//! those panics become errors here.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::ChunkReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use super::content::Content;
use super::{Fields, Format, Problem, RawRow, RowSource};
use crate::panics::caught;
use crate::{Error, Result};

pub(super) const FORMAT: Format = Format { is: |_, head| head.starts_with(b"PAR1"), open };

struct Columns {
    path: PathBuf,
    rows: RowIter<'static>,
    number: usize,
}

/// The footer at the end is read first, so a file is opened once more, and any other content is held in memory.
fn open<'a>(path: &Path, content: Content<'a>) -> Result<Box<dyn RowSource + 'a>> {
    let io = |e| Error::io(path, e);
    let rows = if content.is_file() {
        let file = File::open(path).map_err(io)?;
        reading(path, || rows(file))?
    } else {
        let bytes = Bytes::from(content.into_bytes().map_err(io)?);
        reading(path, || rows(bytes))?
    };
    Ok(Box::new(Columns { path: path.to_path_buf(), rows, number: 0 }))
}

fn rows(content: impl ChunkReader + 'static) -> Result<RowIter<'static>, ParquetError> {
    Ok(RowIter::from_file_into(Box::new(SerializedFileReader::new(content)?)))
}

/// What the crate reads, or why it cannot.
fn reading<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let text = match caught(read) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("it is damaged ({panic})"),
    };
    let hint = match text.contains("Disabled feature") {
        true => "write its pages without compression, or with zstd, snappy, gzip or lz4",
        false => "copy or write the file again",
    };
    Err(Error::file(path, format!("the Parquet file cannot be read: {text}")).with_hint(hint))
}

impl RowSource for Columns {
    fn next_row(&mut self) -> Result<Option<RawRow>> {
        let rows = &mut self.rows;
        let Some(row) = reading(&self.path, || rows.next().transpose())? else { return Ok(None) };
        self.number += 1;
        Ok(Some(RawRow::new(self.number, fields(row))))
    }
}

fn fields(row: Row) -> Result<Fields, Problem> {
    let value = |(name, field): (String, Field)| {
        let value = value(field).map_err(|problem| (format!("`{name}` {problem}"), None))?;
        Ok((name, value))
    };
    row.into_columns().into_iter().map(value).collect()
}

/// A value of a column; the error says what it is.
fn value(field: Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => b.into(),
        Field::Byte(n) => n.into(),
        Field::Short(n) => n.into(),
        Field::Int(n) => n.into(),
        Field::Long(n) => n.into(),
        Field::UByte(n) => n.into(),
        Field::UShort(n) => n.into(),
        Field::UInt(n) => n.into(),
        Field::ULong(n) => n.into(),
        Field::Float16(x) => number(x.into()),
        Field::Float(x) => number(x.into()),
        Field::Double(x) => number(x),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => return Err("holds bytes that are not UTF-8".into()),
        },
        Field::Group(row) => Value::Object(structure(row)?),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().cloned().map(value).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                Ok::<_, String>((key, value(field.clone())?))
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<Map<_, _>, _>>()?)
        }
        // As text, in the form that the format's own tools print.
        other @ (Field::Decimal(_)
        | Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_)) => other.to_string().into(),
    })
}

fn structure(row: Row) -> Result<Map<String, Value>, String> {
    let given = row.into_columns().into_iter().filter(|(_, field)| !matches!(field, Field::Null));
    given.map(|(name, field)| Ok((name, value(field)?))).collect()
}

/// JSON has no infinity and no NaN, which pandas writes for what is absent.
fn number(x: f64) -> Value {
    Number::from_f64(x).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file with these bytes has: so many rows, or an error.
    fn count(bytes: &[u8]) -> Result<usize> {
        let mut rows = 0;
        super::super::read(Path::new("rows.parquet"), bytes, &mut |_| {
            rows += 1;
            Ok(rows < 1000)
        })?;
        Ok(rows)
    }

    #[test]
    fn damaged_files_give_rows_or_an_error() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/rows");
        let mut refused = 0;
        for (name, stride) in
            [("rows-zstd.parquet", 2), ("rows-plain.parquet", 13), ("rows-large.parquet", 3)]
        {
            let whole = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(count(&whole).unwrap(), 200);
            for at in (0..whole.len()).step_by(stride) {
                for change in [0x01, 0x80] {
                    let mut bytes = whole.clone();
                    bytes[at] ^= change;
                    refused += usize::from(count(&bytes).is_err());
                }
            }
        }
        assert!(refused > 100, "{refused}");
    }
}
