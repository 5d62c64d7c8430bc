//! Loss on held-out rows: the true mean over their label tokens, by the code that trains.

use ferrotune_kernels::ops::attention::Segment;

use crate::Result;
use crate::data::pack::PackedBatch;
use crate::loss::cross_entropy::{self, LossSum};
use crate::model::{Decoder, Pass, Tokens};

/// The segments of a batch as attention takes them.
pub fn segments(batch: &PackedBatch) -> Vec<Segment> {
    batch.segments.iter().map(|r| Segment::own(r.start, r.len())).collect()
}

/// Token losses of every batch together.
pub fn loss(model: &Decoder, pass: &Pass<'_>, batches: &[PackedBatch]) -> Result<LossSum> {
    let mut total = LossSum::default();
    for batch in batches {
        let segments = segments(batch);
        let tokens = Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &segments };
        let x = model.forward(pass, tokens)?;
        let losses = cross_entropy::token_losses(model, pass, &x, &batch.targets)?;
        total.add(LossSum { sum: losses.iter().map(|l| *l as f64).sum(), tokens: losses.len() });
    }
    Ok(total)
}
