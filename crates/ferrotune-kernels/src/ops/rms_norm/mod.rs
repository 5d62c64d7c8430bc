//! Root-mean-square norm over the columns: `y = x / sqrt(mean(x^2) + eps) * w`.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// `x` `[T, D]` (f32 or bf16), `w` `[1, D]`; gives `y` `[T, D]` in f32.
pub fn forward(dev: &Device, x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    expect("rms_norm", "w", w, [1, x.cols()])?;
    let mut y = dev.empty(x.rows(), x.cols());
    match dev {
        Device::Reference(_) => reference::forward(x, w.f32(), eps, y.f32_mut()),
        Device::Cpu(c) => cpu::forward(c, x, w.f32(), eps, y.f32_mut()),
    }
    Ok(y)
}

/// Adds the gradient of `x` to `dx`, and that of `w` to `dw` where it is trained. The norm is computed again.
pub fn backward(
    dev: &Device,
    x: &Tensor,
    w: &Tensor,
    eps: f32,
    dy: &Tensor,
    dx: &mut Tensor,
    dw: Option<&mut Tensor>,
) -> Result<()> {
    expect("rms_norm", "w", w, [1, x.cols()])?;
    expect("rms_norm", "dy", dy, x.shape())?;
    expect("rms_norm", "dx", dx, x.shape())?;
    if let Some(dw) = &dw {
        expect("rms_norm", "dw", dw, w.shape())?;
    }
    match dev {
        Device::Reference(_) => reference::backward(x, w.f32(), eps, dy.f32(), dx.f32_mut(), dw),
        Device::Cpu(c) => cpu::backward(c, x, w.f32(), eps, dy.f32(), dx.f32_mut(), dw),
    }
    Ok(())
}
