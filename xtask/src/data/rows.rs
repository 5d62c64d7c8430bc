//! Generated chats: the same rows as JSON Lines and as Parquet, for any number of them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use ferrotune::data::random::{below, hash};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};

use crate::golden::Failure;

/// Source of all rows.
const SEED: u64 = 21;

/// Rows of a row group.
const GROUP: usize = 10_000;

const SCHEMA: &str = "message schema { optional group messages (LIST) { repeated group list {
    optional group element { optional binary role (UTF8); optional binary content (UTF8); } } } }";

/// Makes chats of words that stand in a text.
pub(super) struct Chats<'a> {
    words: Vec<&'a str>,
}

impl<'a> Chats<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Chats { words: text.split_whitespace().collect() }
    }

    fn text(&self, row: usize, turn: u64, least: usize, most: usize) -> String {
        let key = |word: usize| [SEED, row as u64, turn, word as u64];
        // Short texts are more frequent than long ones.
        let share = hash(&key(usize::MAX)) as f64 / u64::MAX as f64;
        let count = least + ((most - least) as f64 * share * share) as usize;
        let words = (0..count).map(|word| self.words[below(&key(word), self.words.len())]);
        words.collect::<Vec<_>>().join(" ")
    }

    /// The role and content of each message of a row: a question of 6 to 60 words and an answer of 6 to 400.
    fn messages(&self, row: usize) -> [(&'static str, String); 2] {
        [("user", self.text(row, 0, 6, 60)), ("assistant", self.text(row, 1, 6, 400))]
    }

    /// Texts of two words: a whole epoch of many of them takes minutes.
    pub(super) fn write_short(&self, path: &Path, rows: usize) -> Result<(), Failure> {
        let mut file = BufWriter::new(File::create(path)?);
        for row in 0..rows {
            writeln!(file, "{}", json!({"text": self.text(row, 2, 2, 2)}))?;
        }
        Ok(file.flush()?)
    }

    pub(super) fn write_jsonl(&self, path: &Path, rows: usize) -> Result<(), Failure> {
        let mut file = BufWriter::new(File::create(path)?);
        for row in 0..rows {
            let message = |(role, content)| json!({"role": role, "content": content});
            let messages: Vec<Value> = self.messages(row).into_iter().map(message).collect();
            writeln!(file, "{}", json!({"messages": messages}))?;
        }
        Ok(file.flush()?)
    }

    pub(super) fn write_parquet(&self, path: &Path, rows: usize) -> Result<(), Failure> {
        let failed = |e: parquet::errors::ParquetError| Failure(e.to_string());
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let zstd = Compression::ZSTD(ZstdLevel::default());
        let properties = Arc::new(WriterProperties::builder().set_compression(zstd).build());
        let mut file = SerializedFileWriter::new(File::create(path)?, schema, properties).map_err(failed)?;
        for from in (0..rows).step_by(GROUP) {
            let messages: Vec<_> =
                (from..rows.min(from + GROUP)).flat_map(|row| self.messages(row)).collect();
            // Nothing is absent, and the second message of a row goes on with its list.
            let defined = vec![4; messages.len()];
            let repeated: Vec<i16> = (0..messages.len()).map(|i| (i % 2) as i16).collect();
            let mut group = file.next_row_group().map_err(failed)?;
            let (roles, contents): (Vec<ByteArray>, Vec<ByteArray>) =
                messages.iter().map(|(role, content)| ((*role).into(), content.as_str().into())).unzip();
            for values in [roles, contents] {
                let Some(mut writer) = group.next_column().map_err(failed)? else { break };
                let typed = writer.typed::<ByteArrayType>();
                typed.write_batch(&values, Some(&defined), Some(&repeated)).map_err(failed)?;
                writer.close().map_err(failed)?;
            }
            group.close().map_err(failed)?;
        }
        file.close().map_err(failed)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ferrotune::data::dataset::{Dataset, ReadOptions};

    use super::*;

    #[test]
    fn both_forms_have_the_same_rows() {
        let folder = std::env::temp_dir().join(format!("ferrotune-rows-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let chats = Chats::new("net income of the year and assets at its end");
        let (lines, table) = (folder.join("rows.jsonl"), folder.join("rows.parquet"));
        chats.write_jsonl(&lines, 50).unwrap();
        chats.write_parquet(&table, 50).map_err(|f| f.0).unwrap();
        let read = |path: &Path| Dataset::read(&[path], ReadOptions::default()).unwrap().rows;
        let rows = read(&lines);
        assert_eq!(rows.len(), 50);
        assert_eq!(
            rows.iter().map(|row| &row.example).collect::<Vec<_>>(),
            read(&table).iter().map(|row| &row.example).collect::<Vec<_>>()
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
