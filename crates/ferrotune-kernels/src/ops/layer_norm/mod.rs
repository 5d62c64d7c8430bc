//! Layer norm of rows or of the heads in them: `y = (x - mean) / sqrt(variance + eps) * w + b`.

mod cpu;
mod reference;

use super::expect;
use super::groups::Groups;
pub use super::norm::Grads;
use super::norm::{NormOp, Normed};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// Constants of a layer norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerNorm {
    /// Values that are normalised together: the columns, or the width of a head.
    pub width: usize,
    /// Added to the variance (which divides by the number of values).
    pub eps: f32,
}

/// The norm of StarCoder 2 and StableLM.
pub const LAYER: &dyn NormOp = &Layer;

#[derive(Debug)]
struct Layer;

impl NormOp for Layer {
    fn name(&self) -> &'static str {
        "layer"
    }

    fn has_bias(&self) -> bool {
        true
    }

    fn forward(&self, dev: &Device, of: Normed<'_>, dtype: DType) -> Result<Tensor> {
        forward(dev, of.x, of.weight, of.bias, LayerNorm { width: of.width, eps: of.eps }, dtype)
    }

    fn backward(
        &self,
        dev: &Device,
        of: Normed<'_>,
        dy: &Tensor,
        dx: &mut Tensor,
        grads: Grads<'_>,
    ) -> Result<()> {
        backward(dev, of.x, of.weight, LayerNorm { width: of.width, eps: of.eps }, dy, dx, grads)
    }
}

/// A norm with its weight and the groups that it divides rows into.
#[derive(Clone, Copy)]
struct Applied<'a> {
    w: &'a [f32],
    groups: Groups,
    eps: f32,
}

/// `x` `[T, D]` (f32 or bf16); `w` and `b` `[1, width]`, or `[1, D]` if every group has its own; gives `y` in
/// `dtype`.
pub fn forward(
    dev: &Device,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    norm: LayerNorm,
    dtype: DType,
) -> Result<Tensor> {
    let groups = Groups::new("layer_norm", x, w, norm.width)?;
    if let Some(b) = b {
        expect("layer_norm", "b", b, w.shape())?;
    }
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => {
            reference::forward(x, w.host_f32(), b.map(Tensor::host_f32), groups, norm.eps, &mut y);
        }
        Device::Cpu(c) => {
            let of = Applied { w: w.host_f32(), groups, eps: norm.eps };
            cpu::forward(c, x, of, b.map(Tensor::host_f32), &mut y);
        }
    }
    Ok(y)
}

/// Adds the gradient of `x` to `dx`, and those that `grads` asks for. The norm is computed again.
pub fn backward(
    dev: &Device,
    x: &Tensor,
    w: &Tensor,
    norm: LayerNorm,
    dy: &Tensor,
    dx: &mut Tensor,
    grads: Grads<'_>,
) -> Result<()> {
    let groups = Groups::new("layer_norm", x, w, norm.width)?;
    expect("layer_norm", "dy", dy, x.shape())?;
    expect("layer_norm", "dx", dx, x.shape())?;
    for (what, grad) in [("dw", &grads.weight), ("db", &grads.bias)] {
        if let Some(grad) = grad {
            expect("layer_norm", what, grad, w.shape())?;
        }
    }
    match dev {
        Device::Reference(_) => {
            reference::backward(x, w.host_f32(), groups, norm.eps, dy.host_f32(), dx.host_f32_mut(), grads)
        }
        Device::Cpu(c) => {
            let of = Applied { w: w.host_f32(), groups, eps: norm.eps };
            cpu::backward(c, x, of, dy.host_f32(), dx.host_f32_mut(), grads);
        }
    }
    Ok(())
}
