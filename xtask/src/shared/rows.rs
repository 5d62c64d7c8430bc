//! Rows of token ids that both sides read.

use std::path::Path;

use ferrotune_kernels::rng::Stream;
use serde_json::json;
use tokenizers::Tokenizer;

use crate::golden::Failure;

/// A row of token ids; labels are not shifted, -100 for what is not supervised.
pub(crate) struct Row {
    pub(crate) ids: Vec<u32>,
    pub(crate) labels: Vec<i64>,
}

impl Row {
    /// Random ids below `vocab`, without the first few, which mean something; the first third is not supervised.
    pub(crate) fn random(seed: u64, vocab: u32, length: usize) -> Row {
        let s = Stream::new(seed, "interop rows", 0);
        let ids: Vec<u32> = (0..length as u64).map(|i| 5 + s.below(i, vocab as u64 - 5) as u32).collect();
        let labels = ids.iter().enumerate().map(|(i, id)| if i < length / 3 { -100 } else { *id as i64 });
        Row { labels: labels.collect(), ids }
    }
}

/// Writes rows as both sides read them.
pub(crate) fn write_rows(path: &Path, rows: &[Row]) -> Result<(), Failure> {
    let lines = rows.iter().map(|r| json!({"input_ids": r.ids, "labels": r.labels}).to_string() + "\n");
    Ok(std::fs::write(path, lines.collect::<String>())?)
}

/// The tokens of the built-in facts: a text that never changes and is long enough for every row to be new.
pub(crate) fn facts(model: &Path) -> Result<Vec<u32>, Failure> {
    let text = facts_text()?;
    let tokenizer = Tokenizer::from_file(model.join("tokenizer.json")).map_err(|e| Failure(e.to_string()))?;
    Ok(tokenizer.encode(text, false).map_err(|e| Failure(e.to_string()))?.get_ids().to_vec())
}

/// The built-in facts, an object a line.
pub(crate) fn facts_text() -> Result<String, Failure> {
    let facts = "../crates/ferrotune-cli/data/us-gaap-concepts.jsonl";
    Ok(std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(facts))?)
}

/// `count` rows of `length` ids, evenly spread over the text, all supervised.
pub(crate) fn cut(ids: &[u32], count: usize, length: usize) -> Result<Vec<Row>, Failure> {
    let room = ids.len().checked_sub(length).ok_or_else(|| Failure("the text is too short".into()))?;
    let row = |i: usize| {
        let ids = ids[i * room / count..][..length].to_vec();
        Row { labels: ids.iter().map(|id| *id as i64).collect(), ids }
    };
    Ok((0..count).map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_rows_are_partly_supervised() {
        let row = Row::random(3, 320, 30);
        assert_eq!((row.ids.len(), row.labels.iter().filter(|l| **l >= 0).count()), (30, 20));
        assert!(row.ids.iter().all(|id| (5..320).contains(id)));
    }

    #[test]
    fn rows_lie_within_the_text() {
        let ids: Vec<u32> = (0..100).collect();
        let rows = cut(&ids, 4, 64).map_err(|f| f.0).unwrap_or_default();
        assert_eq!(rows.iter().map(|r| r.ids[0]).collect::<Vec<_>>(), [0, 9, 18, 27]);
        assert!(rows.iter().all(|r| r.ids.len() == 64 && r.labels[63] == r.ids[63] as i64));
        assert!(cut(&ids[..10], 4, 64).is_err());
    }
}
