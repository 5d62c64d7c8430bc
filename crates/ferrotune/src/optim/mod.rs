//! Optimizers over all trainable tensors, learning-rate schedules, gradient clipping.

pub mod adamw;
pub mod adamw8;
pub mod clip;
pub mod schedule;

use std::path::Path;

use ferrotune_kernels::{Device, Tensor};

use crate::Result;
use crate::model::{Gradients, Params};
use crate::run_config::{OptimizerKind, RunConfig};
use adamw::{AdamWConfig, LoraPlus};

type Init = fn(&Device, &Params, AdamWConfig, &Path) -> Result<Box<dyn Optimizer>>;

/// An optimizer that a run file can name.
pub(crate) struct Entry {
    /// Its name in the run file.
    kind: OptimizerKind,
    /// Makes it at its first step; `scratch` is a folder for files without a name.
    init: Init,
    /// Bytes that its state takes in memory for parameters of these lengths.
    state_bytes: fn(&[usize]) -> usize,
}

/// All optimizers.
const OPTIMIZERS: &[Entry] = &[adamw::ADAMW, adamw::PAGED_ADAMW, adamw8::ADAMW_8BIT];

fn entry(kind: OptimizerKind) -> &'static Entry {
    let found = OPTIMIZERS.iter().find(|entry| entry.kind == kind);
    found.unwrap_or_else(|| unreachable!("a test holds that every kind has an entry"))
}

/// The optimizer that a run file names, at its first step.
///
/// # Errors
/// The disk has no room for a state that is kept there.
pub fn init(run: &RunConfig, dev: &Device, params: &Params) -> Result<Box<dyn Optimizer>> {
    let train = &run.train;
    let config = AdamWConfig {
        betas: (train.betas[0], train.betas[1]),
        eps: train.eps,
        weight_decay: train.weight_decay,
        decay_norms_and_biases: false,
        loraplus: run.method.loraplus_lr_ratio.map(|ratio| LoraPlus {
            ratio,
            embedding: run.method.loraplus_lr_embedding / run.lr().max(f64::MIN_POSITIVE),
        }),
    };
    (entry(train.optimizer).init)(dev, params, config, Path::new(&run.output.dir))
}

/// Bytes that the state of an optimizer takes in memory for parameters of these lengths.
pub(crate) fn state_bytes(kind: OptimizerKind, lengths: &[usize]) -> usize {
    (entry(kind).state_bytes)(lengths)
}

/// Finds a saved tensor by name, checking its shape.
pub type ReadTensor<'a> = dyn FnMut(&str, [usize; 2]) -> Result<Vec<f32>> + 'a;

/// A tensor of an optimizer's state.
#[derive(Debug, Clone, Copy)]
pub enum Saved<'a> {
    /// A tensor of a parameter's shape.
    Tensor(&'a Tensor),
    /// 8-bit codes of a parameter's shape; read back as the numbers 0 to 255.
    Codes([usize; 2], &'a [u8]),
    /// Scales of blocks; read back with the shape `[1, len]`.
    Scales(&'a [f32]),
}

/// What a training step asks of an optimizer.
pub trait Optimizer: std::fmt::Debug {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_entry() {
        for &kind in OptimizerKind::ALL {
            assert!(state_bytes(kind, &[1 << 20]) > 0, "{kind:?}");
        }
    }
}
