//! Plain loops; sums in f64.

use crate::tensor::Tensor;

fn inverse_rms(x: &[f32], eps: f32) -> f64 {
    let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / x.len() as f64;
    1.0 / (mean + eps as f64).sqrt()
}

pub(super) fn forward(x: &Tensor, w: &[f32], eps: f32, y: &mut [f32]) {
    let d = w.len();
    for (x, y) in x.to_vec().chunks_exact(d).zip(y.chunks_exact_mut(d)) {
        let r = inverse_rms(x, eps);
        for i in 0..d {
            y[i] = (x[i] as f64 * r) as f32 * w[i];
        }
    }
}

/// With `n = x r`: `dn = dy w`, `dx = r (dn - n mean(dn n))`, `dw = sum over rows of dy n`.
pub(super) fn backward(
    x: &Tensor,
    w: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    mut dw: Option<&mut Tensor>,
) {
    let d = w.len();
    let x = x.to_vec();
    for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
        let r = inverse_rms(x, eps);
        let mean = (0..d).map(|i| dy[i] as f64 * w[i] as f64 * x[i] as f64 * r).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[i] += (r * (dy[i] as f64 * w[i] as f64 - x[i] as f64 * r * mean)) as f32;
        }
        if let Some(dw) = dw.as_deref_mut() {
            let dw = dw.f32_mut();
            for i in 0..d {
                dw[i] += (dy[i] as f64 * x[i] as f64 * r) as f32;
            }
        }
    }
}
