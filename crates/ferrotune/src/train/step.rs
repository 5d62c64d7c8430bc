//! What happens in one optimizer step: micro-batches forward and backward, clip, update.
//!
//! The loss of a step is the sum of its token losses over the number of its label tokens, whatever the number of
//! micro-batches: eight of one row equal one of eight.

use ferrotune_kernels::ops::adamw;
use ferrotune_kernels::{Device, Precision, Tensor};

use crate::data::packed_batch::PackedBatch;
use crate::loss::{Loss, Objective};
use crate::model::decoder::Saved;
use crate::model::parts::Base;
use crate::model::{Decoder, Gradients, ParamId, Params, Pass, Policies};
use crate::optim::Optimizer;
use crate::{Error, Result};

/// Adds the gradient of `scale * summed loss` of one packed micro-batch.
pub fn forward_backward(
    model: &Decoder,
    pass: &Pass<'_>,
    objective: &dyn Objective,
    batch: &PackedBatch,
    scale: f32,
    policies: impl Into<Policies>,
    grads: &mut Gradients,
) -> Result<Loss> {
    let (loss, saved, dx) = forward(model, pass, objective, batch, scale, policies.into(), grads)?;
    model.backward(pass, batch.into(), saved, dx, grads)?;
    Ok(loss)
}

/// The loss and what the backward begins with; gradients of head and last norm are added.
fn forward(
    model: &Decoder,
    pass: &Pass<'_>,
    objective: &dyn Objective,
    batch: &PackedBatch,
    scale: f32,
    policies: Policies,
    grads: &mut Gradients,
) -> Result<(Loss, Saved, Tensor)> {
    let (x, saved) = model.forward_train(pass, batch.into(), policies)?;
    let (loss, dx) = objective.forward_backward(model, pass, batch, &x, scale, grads)?;
    if !loss.sum.is_finite() {
        let problem = format!("the loss is {} over {} label tokens", loss.sum, loss.count);
        return Err(Error::train(problem).with_hint("lower train.lr, or use train.precision: f32"));
    }
    Ok((loss, saved, dx))
}

/// Who updates parameters, and how.
pub struct Update<'a> {
    /// Where it is computed.
    pub dev: &'a Device,
    /// Column of the precision table.
    pub precision: Precision,
    /// The optimizer.
    pub optimizer: &'a mut dyn Optimizer,
    /// Learning rate.
    pub lr: f64,
    /// Factor of the summed loss.
    pub scale: f32,
    /// What each layer keeps for its backward.
    pub policies: Policies,
}

/// A step of one micro-batch in which every layer's parameters are updated as soon as their gradients are whole. Gives the
/// loss and the norm of all gradients.
///
/// `grads` has no gradients before and after; only those of the layer at work exist. Nothing can be clipped, as the norm is
/// known last.
pub(crate) fn layer_by_layer(
    model: &Decoder,
    params: &mut Params,
    update: Update<'_>,
    objective: &dyn Objective,
    batch: &PackedBatch,
    grads: &mut Gradients,
) -> Result<(Loss, f64)> {
    let Update { dev, precision, optimizer, lr, scale, policies } = update;
    fn pass<'a>(dev: &'a Device, precision: Precision, params: &'a Params) -> Pass<'a> {
        Pass { dev, precision, params, adapted: None, dropout: None }
    }
    let whole = pass(dev, precision, params);
    let (loss, saved, dx) = forward(model, &whole, objective, batch, scale, policies, grads)?;
    // A tied table gets its other half at the end.
    let table = match &model.embed {
        Base::Trained(id) => Some(*id),
        Base::Frozen(_) => None,
    };
    let mut squares = 0.0;
    optimizer.begin();
    let mut apply = |params: &mut Params, grads: &mut Gradients, held: Option<ParamId>| -> Result<()> {
        let out = held.and_then(|id| grads.take_out(id).map(|tensor| (id, tensor)));
        squares += adamw::norm(dev, grads.all()).powi(2);
        optimizer.update(dev, params, grads, lr, 1.0)?;
        grads.release();
        if let Some((id, tensor)) = out {
            grads.put(id, tensor);
        }
        Ok(())
    };
    apply(params, grads, table)?;
    let mut backward = model.start_backward(dev, batch.into(), saved, dx)?;
    while backward.layer(&pass(dev, precision, params), grads)? {
        apply(params, grads, table)?;
    }
    backward.finish(&pass(dev, precision, params), grads)?;
    apply(params, grads, None)?;
    Ok((loss, squares.sqrt()))
}

/// The L2 norm over all gradients.
pub fn gradient_norm(dev: &Device, grads: &Gradients) -> f64 {
    adamw::norm(dev, grads.all())
}
