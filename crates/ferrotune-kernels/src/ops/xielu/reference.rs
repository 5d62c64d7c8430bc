//! Plain loops in f64.

use super::Curve;
use crate::tensor::Tensor;

impl Curve {
    /// `e^min(x, eps) - 1 - x`, which `n` is multiplied by.
    fn below(&self, x: f64) -> f64 {
        x.min(self.eps).exp_m1() - x
    }

    fn value(&self, x: f64) -> f64 {
        self.beta * x + if x > 0.0 { self.p * x * x } else { self.n * self.below(x) }
    }

    fn slope(&self, x: f64) -> f64 {
        let bent = if x <= self.eps { x.exp() } else { 0.0 };
        self.beta + if x > 0.0 { 2.0 * self.p * x } else { self.n * (bent - 1.0) }
    }
}

pub(super) fn forward(x: &Tensor, curve: Curve, y: &mut Tensor) {
    y.set(&x.to_vec().into_iter().map(|x| curve.value(x as f64) as f32).collect::<Vec<_>>());
}

/// The sums of `dy` times what `p` and `n` are multiplied by.
pub(super) fn backward(x: &Tensor, curve: Curve, dy: &[f32], dx: &mut Tensor) -> [f64; 2] {
    let mut sums = [0.0; 2];
    let mut one = |(x, dy): (f32, &f32)| {
        let (x, dy) = (x as f64, *dy as f64);
        match x > 0.0 {
            true => sums[0] += dy * x * x,
            false => sums[1] += dy * curve.below(x),
        }
        (dy * curve.slope(x)) as f32
    };
    let values: Vec<f32> = x.to_vec().into_iter().zip(dy).map(&mut one).collect();
    dx.set(&values);
    sums
}
