//! Cross-entropy of a chunk of logits, and its gradient in the same pass.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// What happens to the head's outputs before the softmax: `z = cap tanh(scale x / cap)`, or `z = scale x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logits {
    /// Factor of the outputs (Granite divides by `logits_scaling`).
    pub scale: f32,
    /// Soft cap (Gemma 2).
    pub cap: Option<f32>,
}

impl Default for Logits {
    fn default() -> Self {
        Logits { scale: 1.0, cap: None }
    }
}

impl Logits {
    /// Whether outputs are the logits.
    fn is_identity(self) -> bool {
        self == Logits::default()
    }
}

/// Turns the head's outputs into logits, in place.
pub fn logits(dev: &Device, x: &mut Tensor, how: Logits) {
    if how.is_identity() {
        return;
    }
    match dev {
        Device::Reference(_) => reference::logits(x.f32_mut(), how),
        Device::Cpu(c) => cpu::logits(c, x.f32_mut(), how),
    }
}

/// Gives the token losses `-log softmax(z[t])[targets[t]]` with `z` the logits of the head's outputs, and overwrites
/// the outputs `[M, V]` with the gradient of `scale * sum of losses`, which is `scale * (softmax(z) - onehot(target))`
/// where outputs are the logits.
///
/// With `gradient: false` they become the logits.
pub fn forward(
    dev: &Device,
    outputs: &mut Tensor,
    targets: &[u32],
    how: Logits,
    scale: f32,
    gradient: bool,
) -> Result<Vec<f32>> {
    expect("softmax_xent", "logits", outputs, [targets.len(), outputs.cols()])?;
    if let Some(t) = targets.iter().find(|t| **t as usize >= outputs.cols()) {
        let found = format!("{t} with {} logits", outputs.cols());
        return Err(Error::Unsupported { what: "target id", found, allowed: "ids below the vocabulary" });
    }
    let scale = gradient.then_some(scale);
    Ok(match dev {
        Device::Reference(_) => reference::forward(outputs, targets, how, scale),
        Device::Cpu(c) => cpu::forward(c, outputs, targets, how, scale),
    })
}
