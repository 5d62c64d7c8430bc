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
        Activation::Sigmoid => {
            let s = 1.0 / (1.0 + (-x).exp());
            (s, s * (1.0 - s))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x.powi(3))).tanh();
            let slope = c * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        }
    }
}

pub(super) fn forward(act: Activation, x: &Tensor, up: Option<&Tensor>, y: &mut Tensor) {
    let up = up.map(Tensor::to_vec);
    let value = |(i, x): (usize, f32)| {
        let up = up.as_ref().map_or(1.0, |up| up[i] as f64);
        (at(act, x as f64).0 * up) as f32
    };
    y.set(&x.to_vec().into_iter().enumerate().map(value).collect::<Vec<_>>());
}

pub(super) fn backward(act: Activation, x: &Tensor, dy: &[f32], dx: &mut Tensor) {
    let slope = |(x, dy): (f32, &f32)| (*dy as f64 * at(act, x as f64).1) as f32;
    dx.set(&x.to_vec().into_iter().zip(dy).map(slope).collect::<Vec<_>>());
}

pub(super) fn gated_backward(
    act: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &[f32],
    dgate: &mut Tensor,
    dup: &mut Tensor,
) {
    let both = |((g, u), dy): ((f32, f32), &f32)| {
        let (value, slope) = at(act, g as f64);
        ((*dy as f64 * u as f64 * slope) as f32, (*dy as f64 * value) as f32)
    };
    let (dg, du): (Vec<f32>, Vec<f32>) = gate.to_vec().into_iter().zip(up.to_vec()).zip(dy).map(both).unzip();
    dgate.set(&dg);
    dup.set(&du);
}
