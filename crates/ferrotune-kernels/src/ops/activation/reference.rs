//! Plain loops in f64.

use super::Activation;
use crate::ops::scalar::sigmoid;
use crate::tensor::Tensor;

/// The value and its derivatives in `x` and `up`; without `up` it is `act(x)`.
fn at(act: Activation, x: f64, up: Option<f64>) -> (f64, f64, f64) {
    let times = up.unwrap_or(1.0);
    let (value, slope) = match act {
        Activation::Silu => {
            let s = sigmoid(x);
            (x * s, s * (1.0 + x * (1.0 - s)))
        }
        Activation::Sigmoid => {
            let s = sigmoid(x);
            (s, s * (1.0 - s))
        }
        Activation::GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x.powi(3))).tanh();
            let slope = c * (1.0 + 3.0 * 0.044715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        }
        Activation::ClampedSwish { alpha, limit } => {
            let (alpha, limit, up) = (alpha as f64, limit as f64, up.unwrap_or(0.0));
            let (g, u) = (x.min(limit), up.clamp(-limit, limit));
            let s = sigmoid(alpha * g);
            let inside = |inside: bool, slope: f64| if inside { slope } else { 0.0 };
            let dg = inside(x <= limit, (u + 1.0) * s * (1.0 + alpha * g * (1.0 - s)));
            return ((u + 1.0) * g * s, dg, inside(up.abs() <= limit, g * s));
        }
    };
    (value * times, slope * times, value)
}

pub(super) fn forward(act: Activation, x: &Tensor, up: Option<&Tensor>, y: &mut Tensor) {
    let up = up.map(Tensor::to_vec);
    let value = |(i, x): (usize, f32)| at(act, x as f64, up.as_ref().map(|up| up[i] as f64)).0 as f32;
    y.set(&x.to_vec().into_iter().enumerate().map(value).collect::<Vec<_>>());
}

pub(super) fn backward(act: Activation, x: &Tensor, dy: &[f32], dx: &mut Tensor) {
    let slope = |(x, dy): (f32, &f32)| (*dy as f64 * at(act, x as f64, None).1) as f32;
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
        let (_, dg, du) = at(act, g as f64, Some(u as f64));
        ((*dy as f64 * dg) as f32, (*dy as f64 * du) as f32)
    };
    let (dg, du): (Vec<f32>, Vec<f32>) = gate.to_vec().into_iter().zip(up.to_vec()).zip(dy).map(both).unzip();
    dgate.set(&dg);
    dup.set(&du);
}
