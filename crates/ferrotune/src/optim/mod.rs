//! Optimizers over all trainable tensors, learning-rate schedules, gradient clipping.

pub mod adamw;
pub mod clip;
pub mod schedule;

use ferrotune_kernels::{Device, Tensor};

use crate::Result;
use crate::model::{Gradients, Params};

/// Finds a saved tensor by name, checking its shape.
pub type ReadTensor<'a> = dyn FnMut(&str, [usize; 2]) -> Result<Vec<f32>> + 'a;

/// What a training step asks of an optimizer.
pub trait Optimizer {
    /// Updates every parameter with its gradient times `grad_scale`.
    fn step(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        grad_scale: f32,
    ) -> Result<()>;

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// The state as named tensors, for a checkpoint.
    fn state(&self, params: &Params) -> Vec<(String, &Tensor)>;

    /// Restores what [`Optimizer::state`] gave; `read` finds a tensor of the given name and shape.
    fn restore(&mut self, params: &Params, steps: u64, read: &mut ReadTensor<'_>) -> Result<()>;
}
