//! Cross-entropy of a chunk of logits, and its gradient in the same pass.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Gives the token losses `-log softmax(logits[t])[targets[t]]` and overwrites `logits` `[M, V]` with
/// `scale * (softmax(logits) - onehot(target))`, the gradient of `scale * sum of losses`.
///
/// With `gradient: false` the logits are left as they are.
pub fn forward(
    dev: &Device,
    logits: &mut Tensor,
    targets: &[u32],
    scale: f32,
    gradient: bool,
) -> Result<Vec<f32>> {
    expect("softmax_xent", "logits", logits, [targets.len(), logits.cols()])?;
    if let Some(t) = targets.iter().find(|t| **t as usize >= logits.cols()) {
        let found = format!("{t} with {} logits", logits.cols());
        return Err(Error::Unsupported { what: "target id", found, allowed: "ids below the vocabulary" });
    }
    let scale = gradient.then_some(scale);
    Ok(match dev {
        Device::Reference(_) => reference::forward(logits, targets, scale),
        Device::Cpu(c) => cpu::forward(c, logits, targets, scale),
    })
}
