//! The tokens of a pass.

use ferrotune_kernels::ops::attention::Segment;

use crate::data::packed_batch::PackedBatch;

/// Tokens of a pass: which, where in their sequences, and who sees whom.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    /// Token ids `[T]`.
    pub ids: &'a [u32],
    /// Position of each in its sequence.
    pub positions: &'a [u32],
    /// Runs of tokens that attend to each other.
    pub segments: &'a [Segment],
}

impl<'a> From<&'a PackedBatch> for Tokens<'a> {
    fn from(batch: &'a PackedBatch) -> Self {
        Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &batch.segments }
    }
}
