//! Plain loops; sums in f64.

use super::{Grads, Groups};
use crate::tensor::Tensor;

/// Mean and inverse deviation.
fn moments(x: &[f32], eps: f32) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().map(|v| *v as f64).sum::<f64>() / n;
    let variance = x.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>() / n;
    (mean, 1.0 / (variance + eps as f64).sqrt())
}

pub(super) fn forward(x: &Tensor, w: &[f32], b: Option<&[f32]>, groups: Groups, eps: f32, out: &mut Tensor) {
    let d = groups.width;
    let mut all = vec![0.0; x.len()];
    for (g, (x, y)) in x.to_vec().chunks_exact(d).zip(all.chunks_exact_mut(d)).enumerate() {
        let (mean, r) = moments(x, eps);
        let at = groups.weight(g);
        for i in 0..d {
            let b = b.map_or(0.0, |b| b[at + i] as f64);
            y[i] = ((x[i] as f64 - mean) * r * w[at + i] as f64 + b) as f32;
        }
    }
    out.set(&all);
}

/// With `n = (x - mean) r`: `dn = dy w`, `dx = r (dn - mean(dn) - n mean(dn n))`, `dw = sum dy n`, `db = sum dy`.
pub(super) fn backward(
    x: &Tensor,
    w: &[f32],
    groups: Groups,
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    mut grads: Grads<'_>,
) {
    let d = groups.width;
    let x = x.to_vec();
    for (g, ((x, dy), dx)) in
        x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).enumerate()
    {
        let (mean, r) = moments(x, eps);
        let at = groups.weight(g);
        let n: Vec<f64> = x.iter().map(|x| (*x as f64 - mean) * r).collect();
        let dn: Vec<f64> = (0..d).map(|i| dy[i] as f64 * w[at + i] as f64).collect();
        let average = dn.iter().sum::<f64>() / d as f64;
        let along = dn.iter().zip(&n).map(|(a, b)| a * b).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[i] += (r * (dn[i] - average - n[i] * along)) as f32;
        }
        for (sums, of_n) in [(grads.weight.as_deref_mut(), true), (grads.bias.as_deref_mut(), false)] {
            let Some(sums) = sums else { continue };
            for (i, sum) in sums.host_f32_mut()[at..][..d].iter_mut().enumerate() {
                *sum += (dy[i] as f64 * if of_n { n[i] } else { 1.0 }) as f32;
            }
        }
    }
}
