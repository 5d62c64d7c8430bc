//! Activations of an MLP: `y = act(x)`, and the gated form `y = act(gate) * up`.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// The function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`; gated it is SwiGLU.
    Silu,
    /// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`, the tanh approximation of GELU; gated it is GEGLU.
    GeluTanh,
}

/// `y = act(x)` in f32 for `x` `[T, F]` (f32 or bf16).
pub fn forward(dev: &Device, act: Activation, x: &Tensor) -> Tensor {
    let mut y = dev.empty(x.rows(), x.cols());
    match dev {
        Device::Reference(_) => reference::forward(act, x, None, y.f32_mut()),
        Device::Cpu(c) => cpu::forward(c, act, x, y.f32_mut()),
    }
    y
}

/// The gradient of `x` for the gradient `dy` of the output.
pub fn backward(dev: &Device, act: Activation, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    expect("activation", "dy", dy, x.shape())?;
    let mut dx = dev.empty(x.rows(), x.cols());
    match dev {
        Device::Reference(_) => reference::backward(act, x, dy.f32(), dx.f32_mut()),
        Device::Cpu(c) => cpu::backward(c, act, x, dy.f32(), dx.f32_mut()),
    }
    Ok(dx)
}

/// `gate` and `up` `[T, F]` (f32 or bf16, both the same); gives `y` `[T, F]` in f32.
pub fn gated(dev: &Device, act: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    expect("gated activation", "up", up, gate.shape())?;
    let mut y = dev.empty(gate.rows(), gate.cols());
    match dev {
        Device::Reference(_) => reference::forward(act, gate, Some(up), y.f32_mut()),
        Device::Cpu(c) => cpu::gated(c, act, gate, up, y.f32_mut()),
    }
    Ok(y)
}

/// Gives `(dgate, dup)` for the gradient `dy` of the output.
pub fn gated_backward(
    dev: &Device,
    act: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
) -> Result<(Tensor, Tensor)> {
    expect("gated activation", "up", up, gate.shape())?;
    expect("gated activation", "dy", dy, gate.shape())?;
    let mut dgate = dev.empty(gate.rows(), gate.cols());
    let mut dup = dev.empty(gate.rows(), gate.cols());
    match dev {
        Device::Reference(_) => {
            reference::gated_backward(act, gate, up, dy.f32(), dgate.f32_mut(), dup.f32_mut())
        }
        Device::Cpu(c) => cpu::gated_backward(c, act, gate, up, dy.f32(), dgate.f32_mut(), dup.f32_mut()),
    }
    Ok((dgate, dup))
}
