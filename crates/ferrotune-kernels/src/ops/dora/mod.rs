//! DoRA (Liu et al. 2024): the rows of `W + s B A` are brought to trained lengths, the magnitudes `m`.
//!
//! With `Z = X (W + s B A)t` from [`linear`](super::linear), without bias: `Y = Z m / n + b`, where `n_j` is the length
//! of row `j` of `W + s B A`. The lengths are constants of the backward, as in section 4.3 of the paper:
//! `dZ = dY m / n`, `dm = column sums of dY Z / n`.
//!
//! Shapes: Z and Y `[M, N]`; m, n and b `[1, N]`.

mod cpu;
mod reference;

use super::expect;
use super::linear::Matrix;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// What scales the rows.
#[derive(Clone, Copy)]
pub struct Lengths<'a> {
    /// The trained lengths `m [1, N]`.
    pub magnitude: &'a Tensor,
    /// The present lengths `n [1, N]`, from [`row_norms`].
    pub norm: &'a Tensor,
}

/// The lengths of the rows of `W + s B A` as `[1, N]`; W is decoded row by row. Without a branch those of W.
pub fn row_norms(
    dev: &Device,
    weight: Matrix<'_>,
    branch: Option<(&Tensor, &Tensor, f32)>,
) -> Result<Tensor> {
    let (n, k) = (weight.rows(), weight.cols());
    if let Some((a, b, _)) = branch {
        expect("dora", "lora_A", a, [a.rows(), k])?;
        expect("dora", "lora_B", b, [n, a.rows()])?;
    }
    let mut norm = dev.empty(1, n);
    match dev {
        Device::Reference(_) => reference::row_norms(weight, branch, norm.host_f32_mut()),
        Device::Cpu(c) => cpu::row_norms(c, weight, branch, norm.host_f32_mut()),
    }
    Ok(norm)
}

/// `y (+)= z m / n + b`.
pub fn forward(
    dev: &Device,
    z: &Tensor,
    lengths: Lengths<'_>,
    bias: Option<&Tensor>,
    y: &mut Tensor,
    accumulate: bool,
) -> Result<()> {
    check(z, lengths)?;
    expect("dora", "y", y, z.shape())?;
    if let Some(bias) = bias {
        expect("dora", "bias", bias, [1, z.cols()])?;
    }
    match dev {
        Device::Reference(_) => reference::forward(z, lengths, bias, y, accumulate),
        Device::Cpu(c) => cpu::forward(c, z, lengths, bias, y, accumulate),
    }
    Ok(())
}

/// `dZ`; adds the gradient of the magnitudes to `dm`.
pub fn backward(
    dev: &Device,
    dy: &Tensor,
    z: &Tensor,
    lengths: Lengths<'_>,
    dm: Option<&mut Tensor>,
) -> Result<Tensor> {
    check(z, lengths)?;
    expect("dora", "dy", dy, z.shape())?;
    if let Some(dm) = &dm {
        expect("dora", "dm", dm, [1, z.cols()])?;
    }
    let mut dz = dev.empty(z.rows(), z.cols());
    match dev {
        Device::Reference(_) => reference::backward(dy, z, lengths, &mut dz, dm),
        Device::Cpu(c) => cpu::backward(c, dy, z, lengths, &mut dz, dm),
    }
    Ok(dz)
}

fn check(z: &Tensor, lengths: Lengths<'_>) -> Result<()> {
    expect("dora", "magnitude", lengths.magnitude, [1, z.cols()])?;
    expect("dora", "norm", lengths.norm, [1, z.cols()])
}
