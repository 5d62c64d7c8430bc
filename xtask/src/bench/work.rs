//! Workloads: rows of token ids that both sides read, made from the built-in facts.

use std::path::{Path, PathBuf};

use ferrotune_kernels::rng::Stream;

use super::llama_shape::LLAMA_65B;
use crate::golden::Failure;
use crate::shared::rows::{Row, cut, facts, write_rows};

/// The shortest row of `mix`, and how many lengths there are.
const MIX: (usize, u64) = (57, 364);

/// Tokens that rows of `prefix` begin with in common, and tokens of their own.
const PREFIX: (usize, usize) = (400, 100);

/// What a step sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Workload {
    /// 4 rows of 256 tokens, all supervised.
    Fixed,
    /// 8 rows of 57 to 420 tokens, the second half supervised, as in a chat.
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

    /// Rows of a step less one, and the tokens that they need not compute where beginnings are shared.
    pub(super) fn saved(self) -> (usize, usize) {
        if self == Workload::Prefix { (self.rows_of_step() - 1, PREFIX.0) } else { (0, 0) }
    }

    fn lengths(self, rows: usize) -> Vec<usize> {
        let s = Stream::new(1, "bench mix", 0);
        let length = |i: usize| match self {
            Workload::Fixed => 256,
            Workload::Mix => MIX.0 + s.below(i as u64, MIX.1) as usize,
            Workload::Prefix => PREFIX.0 + PREFIX.1,
            Workload::Long => 512,
            Workload::Short => 128,
        };
        (0..rows).map(length).collect()
    }

    /// Rows for `steps` steps, spread over the text.
    fn rows(self, ids: &[u32], steps: usize) -> Result<Vec<Row>, Failure> {
        let lengths = self.lengths(steps * self.rows_of_step());
        let longest = lengths.iter().max().copied().unwrap_or(0);
        let mut rows = cut(ids, lengths.len(), longest)?;
        for (row, length) in rows.iter_mut().zip(lengths) {
            row.ids.truncate(length);
            row.labels.truncate(length);
            match self {
                Workload::Mix => row.labels[..length / 2].fill(-100),
                Workload::Prefix => row.labels[..PREFIX.0 + PREFIX.1 / 2].fill(-100),
                Workload::Fixed | Workload::Long | Workload::Short => {}
            }
        }
        if self == Workload::Prefix {
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
}

/// Writes the rows of a workload into `work`, in the model's tokens.
pub(super) fn write(workload: Workload, model: &Path, steps: usize, work: &Path) -> Result<Written, Failure> {
    let mut ids = facts(model)?;
    if workload == Workload::Short {
        // The vocabulary of that model is smaller than the tokenizer's.
        ids.iter_mut().for_each(|id| *id %= LLAMA_65B.vocab as u32);
    }
    let rows = workload.rows(&ids, steps)?;
    let path = work.join(format!("{}-{steps}.jsonl", workload.name()));
    write_rows(&path, &rows)?;
    Ok(Written { path, lengths: rows.iter().map(|r| r.ids.len()).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_promised_form() {
        let ids: Vec<u32> = (0..5000).collect();
        let rows = |w: Workload| w.rows(&ids, 3).map_err(|f| f.0).unwrap_or_default();
        let fixed = rows(Workload::Fixed);
        assert_eq!(fixed.len(), 12);
        assert!(fixed.iter().all(|r| r.ids.len() == 256 && r.labels.iter().all(|l| *l >= 0)));
        let mix = rows(Workload::Mix);
        assert_eq!(mix.len(), 24);
        for row in &mix {
            assert!((57..=420).contains(&row.ids.len()));
            assert_eq!(row.labels.iter().filter(|l| **l < 0).count(), row.ids.len() / 2);
            assert_eq!(row.labels.last(), row.ids.last().map(|id| *id as i64).as_ref());
        }
        assert!(mix.iter().any(|r| r.ids.len() != mix[0].ids.len()));
        let prefix = rows(Workload::Prefix);
        assert_eq!(prefix.len(), 48);
        for step in prefix.chunks(16) {
            assert!(step.iter().all(|r| r.ids[..400] == step[0].ids[..400] && r.ids.len() == 500));
            assert!(step[1..].iter().all(|r| r.ids[400..] != step[0].ids[400..]));
            assert!(step.iter().all(|r| r.labels.iter().filter(|l| **l >= 0).count() == 50));
        }
        assert_ne!(prefix[0].ids, prefix[16].ids);
        assert_eq!(rows(Workload::Long).iter().map(|r| r.ids.len()).collect::<Vec<_>>(), [512; 3]);
    }
}
