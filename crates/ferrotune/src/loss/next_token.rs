//! The objective of supervised fine-tuning: the cross-entropy of the next token, over the tokens that are supervised.

use ferrotune_kernels::Tensor;

use super::{Entry, Loss, Objective, cross_entropy};
use crate::Result;
use crate::data::packed_batch::PackedBatch;
use crate::loss::cross_entropy::TokenTargets;
use crate::model::{Decoder, Gradients, Pass};
use crate::run_config::ObjectiveKind;

/// The entry of run files.
pub(super) const NEXT_TOKEN: Entry = Entry { kind: ObjectiveKind::NextToken, init: |_| Box::new(NextToken) };

/// `-log p(next token)`, each as often as rows go through its position.
#[derive(Debug, Clone, Copy, Default)]
pub struct NextToken;

impl Objective for NextToken {
    fn loss(&self, model: &Decoder, pass: &Pass<'_>, batch: &PackedBatch, x: &Tensor) -> Result<Loss> {
        let weights = weights(batch);
        let targets = TokenTargets { ids: &batch.targets, weights: &weights };
        Ok(loss_of(batch, cross_entropy::sum(model, pass, x, targets)?))
    }

    fn forward_backward(
        &self,
        model: &Decoder,
        pass: &Pass<'_>,
        batch: &PackedBatch,
        x: &Tensor,
        scale: f32,
        grads: &mut Gradients,
    ) -> Result<(Loss, Tensor)> {
        let weights = weights(batch);
        let targets = TokenTargets { ids: &batch.targets, weights: &weights };
        let (sum, dx) = cross_entropy::forward_backward(model, pass, x, targets, scale, grads)?;
        Ok((loss_of(batch, sum), dx))
    }
}

fn weights(batch: &PackedBatch) -> Vec<f32> {
    batch.weights.iter().map(|rows| *rows as f32).collect()
}

fn loss_of(batch: &PackedBatch, sum: f64) -> Loss {
    Loss { sum, count: batch.label_tokens(), metrics: Vec::new() }
}
