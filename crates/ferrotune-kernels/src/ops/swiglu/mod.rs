//! The gated activation `y = silu(gate) * up` with `silu(x) = x / (1 + e^-x)`.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// `gate` and `up` `[T, F]` (f32 or bf16, both the same); gives `y` `[T, F]` in f32.
pub fn forward(dev: &Device, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    expect("swiglu", "up", up, gate.shape())?;
    let mut y = dev.empty(gate.rows(), gate.cols());
    match dev {
        Device::Reference(_) => reference::forward(gate, up, y.f32_mut()),
        Device::Cpu(c) => cpu::forward(c, gate, up, y.f32_mut()),
    }
    Ok(y)
}

/// Gives `(dgate, dup)` for the gradient `dy` of the output.
pub fn backward(dev: &Device, gate: &Tensor, up: &Tensor, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    expect("swiglu", "up", up, gate.shape())?;
    expect("swiglu", "dy", dy, gate.shape())?;
    let mut dgate = dev.empty(gate.rows(), gate.cols());
    let mut dup = dev.empty(gate.rows(), gate.cols());
    match dev {
        Device::Reference(_) => reference::backward(gate, up, dy.f32(), dgate.f32_mut(), dup.f32_mut()),
        Device::Cpu(c) => cpu::backward(c, gate, up, dy.f32(), dgate.f32_mut(), dup.f32_mut()),
    }
    Ok((dgate, dup))
}
