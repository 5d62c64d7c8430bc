//! Workloads: rows of token ids that both sides read, made from the built-in facts.

use std::path::{Path, PathBuf};

use super::chats::chats;
use super::llama_shape::LLAMA_65B;
use crate::golden::Failure;
use crate::shared::rows::{Row, cut, facts, write_rows};

/// Tokens that rows of `prefix` begin with in common, and tokens of their own.
const PREFIX: (usize, usize) = (400, 100);

/// What a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// 4 rows of 256 tokens, all supervised.
    Fixed,
    /// 8 conversations of very different lengths, the answers supervised.
    Mix,
    /// 16 rows that begin with the same 400 tokens, as with a document or a system prompt, and go on with 100 of their own, of
    /// which the second half is supervised.
    Prefix,
    /// A row of 512 tokens, all supervised, for the large model.
    Long,
    /// A row of 128 tokens, all supervised, for the model that is larger than memory.
    Short,
}

impl Workload {
    /// The name in tables and files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Workload::Fixed => "fixed",
            Workload::Mix => "mix",
            Workload::Prefix => "prefix",
            Workload::Long => "long",
            Workload::Short => "short",
        }
    }

    /// Rows of an optimizer step.
    pub(super) fn rows_of_step(self) -> usize {
        match self {
            Workload::Fixed => 4,
            Workload::Mix => 8,
            Workload::Prefix => 16,
            Workload::Long | Workload::Short => 1,
        }
    }

    /// Rows for `steps` steps, spread over the text; none of a workload that is not cut from it.
    fn cut(self, ids: &[u32], steps: usize) -> Result<Vec<Row>, Failure> {
        let length = match self {
            Workload::Fixed => 256,
            Workload::Mix => return Ok(Vec::new()),
            Workload::Prefix => PREFIX.0 + PREFIX.1,
            Workload::Long => 512,
            Workload::Short => 128,
        };
        let mut rows = cut(ids, steps * self.rows_of_step(), length)?;
        if self == Workload::Prefix {
            rows.iter_mut().for_each(|row| row.labels[..PREFIX.0 + PREFIX.1 / 2].fill(-100));
            for step in rows.chunks_mut(self.rows_of_step()) {
                let prefix = step[0].ids[..PREFIX.0].to_vec();
                step.iter_mut().for_each(|row| row.ids[..PREFIX.0].copy_from_slice(&prefix));
            }
        }
        Ok(rows)
    }
}

/// A workload on disk.
pub(super) struct Written {
    /// JSON lines of both sides.
    pub(super) path: PathBuf,
    /// Lengths of the rows, for what attention costs.
    pub(super) lengths: Vec<usize>,
    /// Tokens that all rows of a step begin with, for each step: they need not be computed again for each row.
    pub(super) common: Vec<usize>,
}

/// Tokens that all rows begin with.
fn common(rows: &[Row]) -> usize {
    let Some((first, others)) = rows.split_first() else { return 0 };
    let with = |row: &Row| first.ids.iter().zip(&row.ids).take_while(|(a, b)| a == b).count();
    others.iter().map(with).min().unwrap_or(0)
}

/// Writes the rows of a workload into `work`, in the model's tokens.
pub(super) fn write(workload: Workload, model: &Path, steps: usize, work: &Path) -> Result<Written, Failure> {
    let mut ids = facts(model)?;
    if workload == Workload::Short {
        // The vocabulary of that model is smaller than the tokenizer's.
        ids.iter_mut().for_each(|id| *id %= LLAMA_65B.vocab as u32);
    }
    let rows = match workload {
        Workload::Mix => chats(model, steps * workload.rows_of_step(), work)?,
        _ => workload.cut(&ids, steps)?,
    };
    let path = work.join(format!("{}-{steps}.jsonl", workload.name()));
    write_rows(&path, &rows)?;
    Ok(Written {
        path,
        lengths: rows.iter().map(|r| r.ids.len()).collect(),
        common: rows.chunks(workload.rows_of_step()).map(common).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_promised_form() {
        let ids: Vec<u32> = (0..5000).collect();
        let rows = |w: Workload| w.cut(&ids, 3).map_err(|f| f.0).unwrap_or_default();
        let fixed = rows(Workload::Fixed);
        assert_eq!(fixed.len(), 12);
        assert!(fixed.iter().all(|r| r.ids.len() == 256 && r.labels.iter().all(|l| *l >= 0)));
        let prefix = rows(Workload::Prefix);
        assert_eq!(prefix.len(), 48);
        for step in prefix.chunks(16) {
            assert!(step.iter().all(|r| r.ids[..400] == step[0].ids[..400] && r.ids.len() == 500));
            assert!(step[1..].iter().all(|r| r.ids[400..] != step[0].ids[400..]));
            assert!(step.iter().all(|r| r.labels.iter().filter(|l| **l >= 0).count() == 50));
        }
        assert_ne!(prefix[0].ids, prefix[16].ids);
        assert_eq!((common(&prefix[..16]), common(&fixed[..4]), common(&[])), (400, 0, 0));
        assert_eq!(rows(Workload::Long).iter().map(|r| r.ids.len()).collect::<Vec<_>>(), [512; 3]);
    }
}
