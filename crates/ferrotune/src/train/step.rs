//! What happens in one optimizer step: micro-batches forward and backward, clip, update.
//!
//! The loss of a step is the sum of its token losses over the number of its label tokens, whatever the number of
//! micro-batches: eight of one row equal one of eight.

use ferrotune_kernels::ops::adamw;

use crate::loss::cross_entropy::{self, LossSum, TokenTargets};
use crate::model::{Decoder, Gradients, Pass, Policies, Tokens};
use crate::{Error, Result};

/// Adds the gradient of `scale * sum of token losses` of one packed micro-batch.
pub fn forward_backward(
    model: &Decoder,
    pass: &Pass<'_>,
    tokens: Tokens<'_>,
    targets: TokenTargets<'_>,
    scale: f32,
    policies: impl Into<Policies>,
    grads: &mut Gradients,
) -> Result<LossSum> {
    let (x, saved) = model.forward_train(pass, tokens, policies)?;
    let (loss, dx) = cross_entropy::forward_backward(model, pass, &x, targets, scale, grads)?;
    drop(x);
    if !loss.sum.is_finite() {
        let problem = format!("the loss is {} over {} label tokens", loss.sum, loss.tokens);
        return Err(Error::train(problem).with_hint("lower train.lr, or use train.precision: f32"));
    }
    model.backward(pass, tokens, saved, dx, grads)?;
    Ok(loss)
}

/// The L2 norm over all gradients.
pub fn gradient_norm(pass: &Pass<'_>, grads: &Gradients) -> f64 {
    adamw::norm(pass.dev, &grads.all())
}
