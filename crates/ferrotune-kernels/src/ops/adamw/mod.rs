//! AdamW (Loshchilov and Hutter 2019) as PyTorch computes it, over all parameters at once, and the gradient norm.

mod cpu;
mod eight_bit;
mod reference;

pub use eight_bit::{Param8, update_8bit};

use super::expect;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// Constants of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: parameters are first multiplied by `1 - lr * weight_decay`.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
    /// Factor on the gradients (clipping).
    pub grad_scale: f32,
}

/// A parameter with its gradient and state, all of one shape.
pub struct Param<'a> {
    /// The parameter; updated.
    pub value: &'a mut Tensor,
    /// Its gradient.
    pub grad: &'a Tensor,
    /// First moment; updated.
    pub m: &'a mut Tensor,
    /// Second moment; updated.
    pub v: &'a mut Tensor,
    /// The parameter in bf16, if that is what products read; written after each update.
    pub copy: Option<&'a mut Tensor>,
    /// Whether weight decay applies to it.
    pub decay: bool,
    /// Its learning rate as a share of the step's.
    pub lr_factor: f64,
}

/// The constants that a kernel needs, computed in f64 and rounded once.
#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    /// `lr / (1 - beta1^step)`.
    step_size: f32,
    /// `1 / sqrt(1 - beta2^step)`.
    inverse_root: f32,
    eps: f32,
    grad_scale: f32,
}

impl Factors {
    fn new(c: AdamW, decay: bool, lr_factor: f64) -> Self {
        let lr = c.lr * lr_factor;
        let (b1, b2) = c.betas;
        let step = c.step.min(i32::MAX as u64) as i32;
        Factors {
            decay: if decay { (1.0 - lr * c.weight_decay) as f32 } else { 1.0 },
            beta1: b1 as f32,
            beta2: b2 as f32,
            one_minus_beta1: (1.0 - b1) as f32,
            one_minus_beta2: (1.0 - b2) as f32,
            step_size: (lr / (1.0 - b1.powi(step))) as f32,
            inverse_root: (1.0 / (1.0 - b2.powi(step)).sqrt()) as f32,
            eps: c.eps as f32,
            grad_scale: c.grad_scale,
        }
    }
}

/// Bytes of a tensor that are in memory together where it lies in a file: those at work and those that are read meanwhile.
pub const PAGED_WINDOW: usize = 2 * 4 * cpu::WINDOW * cpu::PIECE;

/// One update of every parameter. What lies in a file ([`Pool::in_file`](crate::tensor::Pool::in_file)) is read ahead of the
/// work, and its memory is given back behind it; the bits are the same.
pub fn update(dev: &Device, constants: AdamW, params: &mut [Param<'_>]) -> Result<()> {
    for p in params.iter() {
        expect("adamw", "gradient", p.grad, p.value.shape())?;
        expect("adamw", "m", p.m, p.value.shape())?;
        expect("adamw", "v", p.v, p.value.shape())?;
        if let Some(copy) = &p.copy {
            expect("adamw", "copy", copy, p.value.shape())?;
        }
    }
    match dev {
        Device::Reference(_) => reference::update(constants, params),
        Device::Cpu(c) => cpu::update(c, constants, params),
    }
    Ok(())
}

/// The L2 norm over all tensors together.
pub fn norm<'a>(dev: &Device, tensors: impl IntoIterator<Item = &'a Tensor>) -> f64 {
    let tensors: Vec<_> = tensors.into_iter().collect();
    let squares = match dev {
        Device::Reference(_) => reference::sum_of_squares(&tensors),
        Device::Cpu(c) => cpu::sum_of_squares(c, &tensors),
    };
    squares.sqrt()
}
