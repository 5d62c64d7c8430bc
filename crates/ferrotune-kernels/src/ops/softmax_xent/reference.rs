//! Plain loops in f64.

use super::Logits;
use crate::tensor::Tensor;

pub(super) fn logits(x: &mut [f32], how: Logits) {
    for x in x {
        let scaled = *x as f64 * how.scale as f64;
        *x = how.cap.map_or(scaled, |cap| cap as f64 * (scaled / cap as f64).tanh()) as f32;
    }
}

/// With `scales` the outputs become the gradient.
pub(super) fn run(outputs: &mut Tensor, targets: &[u32], how: Logits, scales: Option<&[f32]>) -> Vec<f32> {
    logits(outputs.host_f32_mut(), how);
    let logits = outputs;
    let v = logits.cols();
    logits
        .host_f32_mut()
        .chunks_exact_mut(v)
        .zip(targets)
        .enumerate()
        .map(|(t, (row, target))| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
            let sum: f64 = row.iter().map(|x| (*x as f64 - max).exp()).sum();
            let loss = max + sum.ln() - row[*target as usize] as f64;
            if let Some(scale) = scales.map(|scales| scales[t]) {
                for (i, x) in row.iter_mut().enumerate() {
                    let z = *x as f64;
                    let onehot = (i == *target as usize) as u8 as f64;
                    let dz = scale as f64 * ((z - max).exp() / sum - onehot);
                    let slope = how.cap.map_or(1.0, |cap| 1.0 - (z / cap as f64).powi(2));
                    *x = (dz * slope * how.scale as f64) as f32;
                }
            }
            loss as f32
        })
        .collect()
}
