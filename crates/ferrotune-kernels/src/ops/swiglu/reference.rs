//! Plain loops in f64.

use crate::tensor::Tensor;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(super) fn forward(gate: &Tensor, up: &Tensor, y: &mut [f32]) {
    for ((y, g), u) in y.iter_mut().zip(gate.to_vec()).zip(up.to_vec()) {
        let g = g as f64;
        *y = (g * sigmoid(g) * u as f64) as f32;
    }
}

/// `d silu(g) / dg = s (1 + g (1 - s))` with `s = sigmoid(g)`.
pub(super) fn backward(gate: &Tensor, up: &Tensor, dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for (i, (g, u)) in gate.to_vec().into_iter().zip(up.to_vec()).enumerate() {
        let (g, u, dy) = (g as f64, u as f64, dy[i] as f64);
        let s = sigmoid(g);
        dup[i] = (dy * g * s) as f32;
        dgate[i] = (dy * u * s * (1.0 + g * (1.0 - s))) as f32;
    }
}
