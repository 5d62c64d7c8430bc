//! Cross-entropy of a chunk of logits, and its gradient in the same pass.

mod cpu;
mod reference;

use super::elementwise::cast;
use super::expect;
use crate::device::Device;
use crate::dtype::DType;
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
        Device::Reference(_) => reference::logits(x.host_f32_mut(), how),
        Device::Cpu(c) => cpu::logits(c, x.host_f32_mut(), how),
    }
}

/// The token losses `-log softmax(z[t])[targets[t]]` with `z` the logits of the head's outputs `[M, V]` (f32).
pub fn forward(dev: &Device, mut outputs: Tensor, targets: &[u32], how: Logits) -> Result<Vec<f32>> {
    check(&outputs, targets)?;
    Ok(match dev {
        Device::Reference(_) => reference::run(&mut outputs, targets, how, None),
        Device::Cpu(c) => cpu::forward(c, &mut outputs, targets, how),
    })
}

/// The token losses, and in the place of the outputs the gradient of `sum of scales[t] * losses[t]` in `dtype`, which is
/// `scales[t] * (softmax(z[t]) - onehot(targets[t]))` where outputs are the logits.
pub fn forward_backward(
    dev: &Device,
    mut outputs: Tensor,
    targets: &[u32],
    how: Logits,
    scales: &[f32],
    dtype: DType,
) -> Result<(Vec<f32>, Tensor)> {
    check(&outputs, targets)?;
    if scales.len() != targets.len() {
        let found = format!("{} for {} targets", scales.len(), targets.len());
        return Err(Error::Unsupported { what: "scales of losses", found, allowed: "one for each target" });
    }
    Ok(match (dev, dtype) {
        (Device::Reference(_), _) => {
            let losses = reference::run(&mut outputs, targets, how, Some(scales));
            (losses, if dtype == DType::F32 { outputs } else { cast(dev, &outputs, dtype) })
        }
        (Device::Cpu(c), _) => {
            let narrow = dtype != DType::F32;
            let losses = cpu::forward_backward(c, &mut outputs, targets, how, scales, narrow);
            (losses, if narrow { outputs.into_bf16() } else { outputs })
        }
    })
}

fn check(outputs: &Tensor, targets: &[u32]) -> Result<()> {
    expect("softmax_xent", "logits", outputs, [targets.len(), outputs.cols()])?;
    if let Some(t) = targets.iter().find(|t| **t as usize >= outputs.cols()) {
        let found = format!("{t} with {} logits", outputs.cols());
        return Err(Error::Unsupported { what: "target id", found, allowed: "ids below the vocabulary" });
    }
    Ok(())
}
