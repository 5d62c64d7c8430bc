//! Plain loops in f64.

use super::Activation;
use crate::tensor::Tensor;

/// The value and the derivative at `x`.
fn at(act: Activation, x: f64) -> (f64, f64) {
    match act {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x.powi(3))).tanh();
            let slope = c * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        }
    }
}

pub(super) fn forward(act: Activation, x: &Tensor, up: Option<&Tensor>, y: &mut [f32]) {
    let up = up.map(Tensor::to_vec);
    for (i, (y, x)) in y.iter_mut().zip(x.to_vec()).enumerate() {
        let up = up.as_ref().map_or(1.0, |up| up[i] as f64);
        *y = (at(act, x as f64).0 * up) as f32;
    }
}

pub(super) fn backward(act: Activation, x: &Tensor, dy: &[f32], dx: &mut [f32]) {
    for (i, x) in x.to_vec().into_iter().enumerate() {
        dx[i] = (dy[i] as f64 * at(act, x as f64).1) as f32;
    }
}

pub(super) fn gated_backward(
    act: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    for (i, (g, u)) in gate.to_vec().into_iter().zip(up.to_vec()).enumerate() {
        let (value, slope) = at(act, g as f64);
        dup[i] = (dy[i] as f64 * value) as f32;
        dgate[i] = (dy[i] as f64 * u as f64 * slope) as f32;
    }
}
