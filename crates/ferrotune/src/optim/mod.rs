//! Optimizers over all trainable tensors, learning-rate schedules, gradient clipping.

pub mod adamw;
pub mod adamw8;
pub mod clip;
pub mod schedule;

use ferrotune_kernels::{Device, Tensor};

use crate::Result;
use crate::model::{Gradients, Params};

/// Finds a saved tensor by name, checking its shape.
pub type ReadTensor<'a> = dyn FnMut(&str, [usize; 2]) -> Result<Vec<f32>> + 'a;

/// A tensor of an optimizer's state.
#[derive(Debug, Clone, Copy)]
pub enum Saved<'a> {
    /// Of a parameter's shape.
    Tensor(&'a Tensor),
    /// 8-bit codes of a parameter's shape; read back as the numbers 0 to 255.
    Codes([usize; 2], &'a [u8]),
    /// Scales of blocks; read back with the shape `[1, len]`.
    Scales(&'a [f32]),
}

/// What a training step asks of an optimizer.
pub trait Optimizer {
    /// Begins the next step.
    fn begin(&mut self);

    /// Updates the parameters whose gradients are there, by these times `grad_scale`.
    fn update(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        grad_scale: f32,
    ) -> Result<()>;

    /// A step of all parameters at once.
    fn step(
        &mut self,
        dev: &Device,
        params: &mut Params,
        grads: &Gradients,
        lr: f64,
        grad_scale: f32,
    ) -> Result<()> {
        self.begin();
        self.update(dev, params, grads, lr, grad_scale)
    }

    /// Steps taken so far.
    fn steps(&self) -> u64;

    /// The state as named tensors, for a checkpoint.
    fn state(&self, params: &Params) -> Vec<(String, Saved<'_>)>;

    /// Restores what [`Optimizer::state`] gave; `read` finds a tensor of the given name and shape.
    fn restore(&mut self, params: &Params, steps: u64, read: &mut ReadTensor<'_>) -> Result<()>;
}
