//! Sums, copies between storage types, and dropout.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::rng::Stream;
use crate::tensor::Tensor;

/// Inverted dropout: an element is kept with probability `1 - p` and then multiplied by `1 / (1 - p)`.
///
/// The decision depends on the stream and the element's index alone, so the backward makes it again.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of zeroing an element, in `[0, 1)`.
    pub p: f32,
    /// Random numbers of this tensor in this step.
    pub stream: Stream,
}

impl Dropout {
    /// The factor of element `index`: 0 or `1 / (1 - p)`.
    #[inline]
    pub fn factor(self, index: usize) -> f32 {
        if self.stream.uniform(index as u64) < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

/// `y += x`, both f32 of one shape. Its own backward.
pub fn add(dev: &Device, y: &mut Tensor, x: &Tensor) -> Result<()> {
    expect("add", "x", x, y.shape())?;
    match dev {
        Device::Reference(_) => reference::add(y.f32_mut(), x.f32()),
        Device::Cpu(c) => cpu::add(c, y.f32_mut(), x.f32()),
    }
    Ok(())
}

/// A copy of `x` stored as `dtype` (bf16 rounds to nearest even).
pub fn cast(dev: &Device, x: &Tensor, dtype: DType) -> Tensor {
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::cast(x, &mut y),
        Device::Cpu(c) => cpu::cast(c, x, &mut y),
    }
    y
}

/// `x` with dropout as a new f32 tensor.
pub fn dropout(dev: &Device, x: &Tensor, drop: Dropout) -> Tensor {
    let mut y = cast(dev, x, DType::F32);
    dropout_backward(dev, &mut y, drop);
    y
}

/// Multiplies the gradient of dropout's output by the same factors, giving that of its input.
pub fn dropout_backward(dev: &Device, dy: &mut Tensor, drop: Dropout) {
    match dev {
        Device::Reference(_) => reference::dropout(dy.f32_mut(), drop),
        Device::Cpu(c) => cpu::dropout(c, dy.f32_mut(), drop),
    }
}
