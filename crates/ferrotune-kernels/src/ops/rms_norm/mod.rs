//! Root-mean-square norm of rows or of the heads in them: `y = x / sqrt(mean(x^2) + eps) * (offset + w)`.

mod cpu;
mod reference;

use super::expect;
use super::groups::Groups;
use super::norm::{Grads, NormOp, Normed};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// Constants of an RMS norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsNorm {
    /// Values that are normalised together: the columns, or the width of a head.
    pub width: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Added to the weight: 1 in the Gemma families, else 0.
    pub offset: f32,
}

/// The norm of Llama and most others.
pub const RMS: &dyn NormOp = &Rms { name: "rms", offset: 0.0 };

/// Gemma's: the weight is stored as its distance from one.
pub const RMS_ONE_PLUS: &dyn NormOp = &Rms { name: "rms, 1 + w", offset: 1.0 };

#[derive(Debug)]
struct Rms {
    name: &'static str,
    offset: f32,
}

impl NormOp for Rms {
    fn name(&self) -> &'static str {
        self.name
    }

    fn forward(&self, dev: &Device, of: Normed<'_>, dtype: DType) -> Result<Tensor> {
        forward(dev, of.x, of.weight, self.constants(of), dtype)
    }

    fn backward(
        &self,
        dev: &Device,
        of: Normed<'_>,
        dy: &Tensor,
        dx: &mut Tensor,
        grads: Grads<'_>,
    ) -> Result<()> {
        backward(dev, of.x, of.weight, self.constants(of), dy, dx, grads.weight)
    }
}

impl Rms {
    fn constants(&self, of: Normed<'_>) -> RmsNorm {
        RmsNorm { width: of.width, eps: of.eps, offset: self.offset }
    }
}

/// A norm with its weight and the groups that it divides rows into.
#[derive(Clone, Copy)]
struct Applied<'a> {
    w: &'a [f32],
    groups: Groups,
    norm: RmsNorm,
}

/// `x` `[T, D]` (f32 or bf16); `w` `[1, width]`, or `[1, D]` if every group has its own; gives `y` `[T, D]`
/// in `dtype`.
pub fn forward(dev: &Device, x: &Tensor, w: &Tensor, norm: RmsNorm, dtype: DType) -> Result<Tensor> {
    let groups = Groups::new("rms_norm", x, w, norm.width)?;
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::forward(x, w.host_f32(), groups, norm, &mut y),
        Device::Cpu(c) => cpu::forward(c, x, Applied { w: w.host_f32(), groups, norm }, &mut y),
    }
    Ok(y)
}

/// Adds the gradient of `x` to `dx`, and that of `w` to `dw` where it is trained. The norm is computed again.
pub fn backward(
    dev: &Device,
    x: &Tensor,
    w: &Tensor,
    norm: RmsNorm,
    dy: &Tensor,
    dx: &mut Tensor,
    dw: Option<&mut Tensor>,
) -> Result<()> {
    let groups = Groups::new("rms_norm", x, w, norm.width)?;
    expect("rms_norm", "dy", dy, x.shape())?;
    expect("rms_norm", "dx", dx, x.shape())?;
    if let Some(dw) = &dw {
        expect("rms_norm", "dw", dw, w.shape())?;
    }
    match dev {
        Device::Reference(_) => {
            reference::backward(x, w.host_f32(), groups, norm, dy.host_f32(), dx.host_f32_mut(), dw)
        }
        Device::Cpu(c) => {
            let of = Applied { w: w.host_f32(), groups, norm };
            cpu::backward(c, x, of, dy.host_f32(), dx.host_f32_mut(), dw);
        }
    }
    Ok(())
}
