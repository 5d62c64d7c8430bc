//! Loss on held-out rows: the true mean over their label tokens, by the code that trains.

use ferrotune_kernels::ops::attention::Segment;

use crate::Result;
use crate::data::pack::PackedBatch;
use crate::loss::cross_entropy::{self, LossSum, TokenTargets};
use crate::model::{Decoder, Pass, Tokens};

/// The segments of a batch as attention takes them.
pub fn segments(batch: &PackedBatch) -> Vec<Segment> {
    batch.segments.iter().map(|s| Segment::own(s.tokens.start, s.tokens.len()).after(s.parent)).collect()
}

/// The targets of a batch as the loss takes them.
pub fn targets(batch: &PackedBatch) -> TokenTargets<'_> {
    TokenTargets { ids: &batch.targets, weights: &batch.weights }
}

/// Token losses of every batch together.
pub fn loss(model: &Decoder, pass: &Pass<'_>, batches: &[PackedBatch]) -> Result<LossSum> {
    let mut total = LossSum::default();
    for batch in batches {
        let segments = segments(batch);
        let tokens = Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &segments };
        let x = model.forward(pass, tokens)?;
        total.add(cross_entropy::sum(model, pass, &x, targets(batch))?);
    }
    Ok(total)
}
