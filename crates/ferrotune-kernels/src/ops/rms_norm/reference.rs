//! Plain loops; sums in f64.

use super::{Groups, RmsNorm};
use crate::tensor::Tensor;

fn inverse_rms(x: &[f32], eps: f32) -> f64 {
    let mean = x.iter().map(|v| (*v as f64).powi(2)).sum::<f64>() / x.len() as f64;
    1.0 / (mean + eps as f64).sqrt()
}

pub(super) fn forward(x: &Tensor, w: &[f32], groups: Groups, norm: RmsNorm, out: &mut Tensor) {
    let d = groups.width;
    let mut all = vec![0.0; x.len()];
    for (g, (x, y)) in x.to_vec().chunks_exact(d).zip(all.chunks_exact_mut(d)).enumerate() {
        let r = inverse_rms(x, norm.eps);
        let w = &w[groups.weight(g)..][..d];
        for i in 0..d {
            y[i] = (x[i] as f64 * r) as f32 * (norm.offset + w[i]);
        }
    }
    out.set(&all);
}

/// With `n = x r`: `dn = dy w`, `dx = r (dn - n mean(dn n))`, `dw = sum over rows of dy n`.
pub(super) fn backward(
    x: &Tensor,
    w: &[f32],
    groups: Groups,
    norm: RmsNorm,
    dy: &[f32],
    dx: &mut [f32],
    mut dw: Option<&mut Tensor>,
) {
    let d = groups.width;
    let x = x.to_vec();
    for (g, ((x, dy), dx)) in
        x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).enumerate()
    {
        let r = inverse_rms(x, norm.eps);
        let at = groups.weight(g);
        let dn: Vec<f64> = (0..d).map(|i| dy[i] as f64 * (norm.offset + w[at + i]) as f64).collect();
        let mean = (0..d).map(|i| dn[i] * x[i] as f64 * r).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[i] += (r * (dn[i] - x[i] as f64 * r * mean)) as f32;
        }
        if let Some(dw) = dw.as_deref_mut() {
            for (i, dw) in dw.host_f32_mut()[at..][..d].iter_mut().enumerate() {
                *dw += (dy[i] as f64 * x[i] as f64 * r) as f32;
            }
        }
    }
}
