//! xIELU (arXiv 2411.13010), an activation with two trained numbers.
//!
//! `p x^2 + beta x` for `x > 0`, else `n (e^min(x, eps) - 1 - x) + beta x`, where `p = softplus(alpha_p)` and
//! `n = beta + softplus(alpha_n)`; `eps` is a small negative number.

mod cpu;
mod reference;

use super::expect;
use super::scalar::{sigmoid, softplus};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// The function: its trained numbers `[1, 1]`, and its constants.
#[derive(Clone, Copy)]
pub struct Xielu<'a> {
    /// `alpha_p`.
    pub alpha_p: &'a Tensor,
    /// `alpha_n`.
    pub alpha_n: &'a Tensor,
    /// `beta`.
    pub beta: f32,
    /// `eps`.
    pub eps: f32,
}

/// Where the gradients of the trained numbers are added.
#[derive(Default)]
pub struct Grads<'a> {
    /// That of `alpha_p`.
    pub alpha_p: Option<&'a mut Tensor>,
    /// That of `alpha_n`.
    pub alpha_n: Option<&'a mut Tensor>,
}

/// The function in plain numbers.
#[derive(Clone, Copy)]
struct Curve {
    p: f64,
    n: f64,
    beta: f64,
    eps: f64,
}

impl Xielu<'_> {
    fn curve(&self) -> Result<Curve> {
        expect("xielu", "alpha_p", self.alpha_p, [1, 1])?;
        expect("xielu", "alpha_n", self.alpha_n, [1, 1])?;
        let positive = |alpha: &Tensor| softplus(alpha.host_f32()[0] as f64);
        let beta = self.beta as f64;
        Ok(Curve { p: positive(self.alpha_p), n: beta + positive(self.alpha_n), beta, eps: self.eps as f64 })
    }
}

/// `y` in `dtype` for `x` `[T, F]` (f32 or bf16).
pub fn forward(dev: &Device, x: &Tensor, of: Xielu<'_>, dtype: DType) -> Result<Tensor> {
    let curve = of.curve()?;
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::forward(x, curve, &mut y),
        Device::Cpu(c) => cpu::forward(c, x, curve, &mut y),
    }
    Ok(y)
}

/// The gradient of `x` in `dtype`, for the gradient `dy` of the output in f32.
pub fn backward(
    dev: &Device,
    x: &Tensor,
    of: Xielu<'_>,
    dy: &Tensor,
    dtype: DType,
    grads: Grads<'_>,
) -> Result<Tensor> {
    let curve = of.curve()?;
    expect("xielu", "dy", dy, x.shape())?;
    let mut dx = dev.uninit(x.rows(), x.cols(), dtype);
    let sums = match dev {
        Device::Reference(_) => reference::backward(x, curve, dy.host_f32(), &mut dx),
        Device::Cpu(c) => cpu::backward(c, x, curve, dy.host_f32(), &mut dx),
    };
    // softplus' is the sigmoid.
    for (grad, (alpha, sum)) in
        [grads.alpha_p, grads.alpha_n].into_iter().zip([of.alpha_p, of.alpha_n].into_iter().zip(sums))
    {
        if let Some(grad) = grad {
            expect("xielu", "gradient", grad, [1, 1])?;
            let slope = sigmoid(alpha.host_f32()[0] as f64);
            grad.host_f32_mut()[0] += (sum * slope) as f32;
        }
    }
    Ok(dx)
}
