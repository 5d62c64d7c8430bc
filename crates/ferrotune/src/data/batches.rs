//! The rows of a run as its steps take them, and how much that is.

use super::loader::{EvalBatches, Loader, LoaderOptions};
use super::pack::Packing;
use super::packed_batch::PackedBatch;
use super::token_rows::TokenRows;
use crate::Result;
use crate::run_config::RunConfig;

/// Which rows belong together, and which may share what they begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Consecutive rows that make one example.
    pub rows_per_example: usize,
    /// Rows of more tokens share nothing: their rotary frequencies depend on their length.
    pub longest: usize,
    /// Whether rows are trained with masks of their own (dropout), so that no two compute the same.
    pub own_masks: bool,
}

/// All steps of a run and its held-out rows.
#[derive(Debug)]
pub struct Batches {
    /// Gives out the steps.
    pub loader: Loader,
    /// The held-out rows in micro-batches.
    pub held_out: EvalBatches,
    /// Tokens of the rows of all steps.
    pub tokens: usize,
    /// Tokens that all steps store and compute, fewer where rows share some.
    pub stored: usize,
    /// What a memory plan must know of them.
    pub size: BatchSizes,
}

/// Sizes of a run's batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSizes {
    /// Tokens of the largest micro-batch.
    pub largest: usize,
    /// Bytes of the tokenized rows.
    pub bytes: usize,
    /// Whether every step is one micro-batch.
    pub single: bool,
}

/// Tokens of all steps up to which these are made to know their sizes exactly: it takes about a second. Of more, only as
/// many are made.
const EXACT: usize = 64 << 20;

impl Batches {
    /// Goes through all steps of the run once, to know their sizes. Where rows share what they begin with and are very
    /// many, `stored` is estimated, and `largest` and `single` are those of rows that share nothing or fill a micro-batch.
    ///
    /// # Errors
    /// There are no rows to train on, or one cannot be read.
    pub fn new(
        config: &RunConfig,
        grouping: Grouping,
        train: TokenRows,
        held_out: TokenRows,
    ) -> Result<Self> {
        let bytes = train.bytes_in_memory() + held_out.bytes_in_memory();
        let mut options = LoaderOptions::from(config);
        options.packing = options.packing.shared_up_to(grouping.longest);
        options.rows_per_example = grouping.rows_per_example;
        let held_out = EvalBatches {
            rows: held_out,
            rows_per_example: grouping.rows_per_example,
            micro_batch_tokens: options.micro_batch_tokens,
            packing: options.packing,
        };
        if grouping.own_masks {
            options.packing = options.packing.shared_up_to(0);
        }
        let mut loader = Loader::new(train, options)?;
        let mut sizes = Sizes { largest: held_out.largest()?.max(1), single: true, ..Sizes::default() };
        let start = loader.state();
        let shares = matches!(options.packing, Packing::Shared(longest) if longest > 0);
        while shares && sizes.tokens < EXACT {
            let Some(step) = loader.next_step()? else { break };
            sizes.add(step.tokens, step.micro_batches.iter().map(PackedBatch::len));
        }
        let (seen, stored) = (sizes.tokens, sizes.stored);
        while let Some(rows) = loader.next_rows() {
            let unshared = loader.unshared(&rows);
            sizes.add(unshared.iter().sum(), unshared.into_iter());
        }
        if shares && sizes.tokens > seen {
            sizes.largest = sizes.largest.max(options.micro_batch_tokens.min(sizes.most));
            sizes.stored = (sizes.tokens as f64 * stored as f64 / seen.max(1) as f64) as usize;
        }
        loader.restore(start)?;
        let Sizes { largest, tokens, stored, single, .. } = sizes;
        Ok(Batches { loader, held_out, tokens, stored, size: BatchSizes { largest, bytes, single } })
    }
}

/// Sizes of the steps that were looked at.
#[derive(Default)]
struct Sizes {
    largest: usize,
    tokens: usize,
    stored: usize,
    single: bool,
    /// Tokens of the largest step.
    most: usize,
}

impl Sizes {
    fn add(&mut self, tokens: usize, micro_batches: impl ExactSizeIterator<Item = usize>) {
        self.tokens += tokens;
        self.most = self.most.max(tokens);
        self.single &= micro_batches.len() == 1;
        for size in micro_batches {
            self.stored += size;
            self.largest = self.largest.max(size);
        }
    }
}
