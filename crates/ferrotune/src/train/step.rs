//! What happens in one optimizer step: micro-batches forward and backward, clip, update.
//!
//! The loss of a step is the sum of its token losses over the number of its label tokens, whatever the number of
//! micro-batches: eight of one row equal one of eight.

use ferrotune_kernels::ops::adamw;
use ferrotune_kernels::{Device, Precision, Tensor};

use crate::loss::cross_entropy::{self, LossSum, TokenTargets};
use crate::model::decoder::Saved;
use crate::model::linear::Base;
use crate::model::{Decoder, Gradients, ParamId, Params, Pass, Policies, Tokens};
use crate::optim::Optimizer;
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
    let (loss, saved, dx) = forward(model, pass, tokens, targets, scale, policies.into(), grads)?;
    model.backward(pass, tokens, saved, dx, grads)?;
    Ok(loss)
}

/// The loss and what the backward begins with; gradients of head and last norm are added.
fn forward(
    model: &Decoder,
    pass: &Pass<'_>,
    tokens: Tokens<'_>,
    targets: TokenTargets<'_>,
    scale: f32,
    policies: Policies,
    grads: &mut Gradients,
) -> Result<(LossSum, Saved, Tensor)> {
    let (x, saved) = model.forward_train(pass, tokens, policies)?;
    let (loss, dx) = cross_entropy::forward_backward(model, pass, &x, targets, scale, grads)?;
    if !loss.sum.is_finite() {
        let problem = format!("the loss is {} over {} label tokens", loss.sum, loss.tokens);
        return Err(Error::train(problem).with_hint("lower train.lr, or use train.precision: f32"));
    }
    Ok((loss, saved, dx))
}

/// A step of one micro-batch in which every layer's parameters are updated as soon as their gradients are whole, and these
/// let go (`grads` has none before and after): nothing may be clipped, as the norm is known last. The loss, and the norm.
pub fn layer_by_layer(
    model: &Decoder,
    params: &mut Params,
    (dev, precision): (&Device, Precision),
    (tokens, targets): (Tokens<'_>, TokenTargets<'_>),
    scale: f32,
    policies: Policies,
    grads: &mut Gradients,
    optimizer: &mut dyn Optimizer,
    lr: f64,
) -> Result<(LossSum, f64)> {
    fn pass<'a>(dev: &'a Device, precision: Precision, params: &'a Params) -> Pass<'a> {
        Pass { dev, precision, params, adapted: None, dropout: None }
    }
    let whole = pass(dev, precision, params);
    let (loss, saved, dx) = forward(model, &whole, tokens, targets, scale, policies, grads)?;
    // A tied table gets its other half at the end.
    let table = match &model.embed {
        Base::Trained(id) => Some(*id),
        Base::Frozen(_) => None,
    };
    let mut squares = 0.0;
    optimizer.begin();
    let mut apply = |params: &mut Params, grads: &mut Gradients, held: Option<ParamId>| -> Result<()> {
        let out = held.and_then(|id| grads.withdraw(id).map(|tensor| (id, tensor)));
        squares += adamw::norm(dev, grads.all()).powi(2);
        optimizer.update(dev, params, grads, lr, 1.0)?;
        grads.leave();
        if let Some((id, tensor)) = out {
            grads.put(id, tensor);
        }
        Ok(())
    };
    apply(params, grads, table)?;
    let mut backward = model.start_backward(dev, tokens, saved, dx)?;
    while backward.layer(&pass(dev, precision, params), grads)? {
        apply(params, grads, table)?;
    }
    backward.finish(&pass(dev, precision, params), grads)?;
    apply(params, grads, None)?;
    Ok((loss, squares.sqrt()))
}

/// The L2 norm over all gradients.
pub fn gradient_norm(pass: &Pass<'_>, grads: &Gradients) -> f64 {
    adamw::norm(pass.dev, grads.all())
}
