//! The rows of a run as its steps take them, and how much that is.

use super::needs::Rows;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::data::loader::{Loader, LoaderOptions, evaluation_batches};
use crate::data::pack::PackedBatch;
use crate::data::tokenize::TrainRow;
use crate::lora::LoraConfig;
use crate::run_config::RunConfig;

/// Steps and held-out batches.
pub(super) struct Feed {
    pub(super) loader: Loader,
    pub(super) held_out: Vec<PackedBatch>,
    /// Tokens of the rows of all steps.
    pub(super) tokens: usize,
    /// Tokens that all steps store.
    pub(super) stored: usize,
    /// What a memory plan must know.
    pub(super) rows: Rows,
}

impl Feed {
    /// Rows to train on and rows to evaluate on, for an adapter or for the model itself.
    pub(super) fn of(
        config: &RunConfig,
        a: &Architecture,
        lora: Option<&LoraConfig>,
        train: Vec<TrainRow>,
        eval: &[TrainRow],
    ) -> Result<Self> {
        let bytes = train.iter().chain(eval).map(|r| 8 * r.len() + 48).sum();
        let mut options = LoaderOptions::from(config);
        options.packing = options.packing.shared_up_to(a.fixed_rotation());
        let held_out = evaluation_batches(eval, options.micro_batch_tokens, options.packing);
        // Each row has its own mask.
        if lora.is_some_and(|lora| lora.dropout > 0.0) {
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
        Ok(Feed { loader, held_out, tokens, stored, rows: Rows { largest, bytes, single } })
    }
}
