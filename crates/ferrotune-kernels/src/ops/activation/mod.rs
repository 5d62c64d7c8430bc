//! Activations of an MLP: `y = act(x)`, and the gated form `y = act(gate) * up`.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// The function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x / (1 + e^-x)`; gated it is SwiGLU.
    Silu,
    /// `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`, the tanh approximation of GELU; gated it is GEGLU.
    GeluTanh,
    /// `1 / (1 + e^-x)`; gated it is the output gate of an attention.
    Sigmoid,
    /// Gated `(u + 1) g / (1 + e^(-alpha g))`, where `g` is at most `limit` and `u` between it and its negative (gpt-oss). It
    /// has no plain form: there `u` is 0.
    ClampedSwish {
        /// Steepness.
        alpha: f32,
        /// The limit.
        limit: f32,
    },
}

/// `y = act(x)` in `dtype` for `x` `[T, F]` (f32 or bf16).
pub fn forward(dev: &Device, act: Activation, x: &Tensor, dtype: DType) -> Tensor {
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::forward(act, x, None, &mut y),
        Device::Cpu(c) => cpu::forward(c, act, x, &mut y),
    }
    y
}

/// The gradient of `x` in `dtype`, for the gradient `dy` of the output in f32.
pub fn backward(dev: &Device, act: Activation, x: &Tensor, dy: &Tensor, dtype: DType) -> Result<Tensor> {
    expect("activation", "dy", dy, x.shape())?;
    let mut dx = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::backward(act, x, dy.host_f32(), &mut dx),
        Device::Cpu(c) => cpu::backward(c, act, x, dy.host_f32(), &mut dx),
    }
    Ok(dx)
}

/// `gate` and `up` `[T, F]` (f32 or bf16, both the same); gives `y` `[T, F]` in `dtype`.
pub fn gated(dev: &Device, act: Activation, gate: &Tensor, up: &Tensor, dtype: DType) -> Result<Tensor> {
    expect("gated activation", "up", up, gate.shape())?;
    let mut y = dev.uninit(gate.rows(), gate.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::forward(act, gate, Some(up), &mut y),
        Device::Cpu(c) => cpu::gated(c, act, gate, up, &mut y),
    }
    Ok(y)
}

/// Gives `(dgate, dup)` in `dtype`, for the gradient `dy` of the output in f32.
pub fn gated_backward(
    dev: &Device,
    act: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
    dtype: DType,
) -> Result<(Tensor, Tensor)> {
    expect("gated activation", "up", up, gate.shape())?;
    expect("gated activation", "dy", dy, gate.shape())?;
    let mut dgate = dev.uninit(gate.rows(), gate.cols(), dtype);
    let mut dup = dev.uninit(gate.rows(), gate.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::gated_backward(act, gate, up, dy.host_f32(), &mut dgate, &mut dup),
        Device::Cpu(c) => cpu::gated_backward(c, act, gate, up, dy.host_f32(), &mut dgate, &mut dup),
    }
    Ok((dgate, dup))
}
