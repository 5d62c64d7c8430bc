//! The rows of a run as its steps take them, and how much that is.

use super::loader::{Loader, LoaderOptions, evaluation_batches};
use super::packed_batch::PackedBatch;
use super::train_row::TrainRow;
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
    pub held_out: Vec<PackedBatch>,
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

impl Batches {
    /// Goes through all steps of the run once, to know their sizes.
    ///
    /// # Errors
    /// There are no rows to train on.
    pub fn new(
        config: &RunConfig,
        grouping: Grouping,
        train: Vec<TrainRow>,
        held_out: &[TrainRow],
    ) -> Result<Self> {
        let bytes = train.iter().chain(held_out).map(|r| 8 * r.len() + 48).sum();
        let mut options = LoaderOptions::from(config);
        options.packing = options.packing.shared_up_to(grouping.longest);
        options.rows_per_example = grouping.rows_per_example;
        let held_out = evaluation_batches(
            held_out,
            grouping.rows_per_example,
            options.micro_batch_tokens,
            options.packing,
        );
        if grouping.own_masks {
            options.packing = options.packing.shared_up_to(0);
        }
        let mut loader = Loader::new(train, options)?;
        let start = loader.state();
        let mut largest = held_out.iter().map(PackedBatch::len).fold(1, usize::max);
        let (mut tokens, mut stored, mut single) = (0, 0, true);
        for step in loader.by_ref() {
            tokens += step.tokens;
            stored += step.stored;
            single &= step.micro_batches.len() == 1;
            largest = step.micro_batches.iter().map(PackedBatch::len).fold(largest, usize::max);
        }
        loader.restore(start)?;
        Ok(Batches { loader, held_out, tokens, stored, size: BatchSizes { largest, bytes, single } })
    }
}
