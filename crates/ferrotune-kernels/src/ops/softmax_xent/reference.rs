//! Plain loops in f64.

use crate::tensor::Tensor;

pub(super) fn forward(logits: &mut Tensor, targets: &[u32], scale: Option<f32>) -> Vec<f32> {
    let v = logits.cols();
    logits
        .f32_mut()
        .chunks_exact_mut(v)
        .zip(targets)
        .map(|(row, target)| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
            let sum: f64 = row.iter().map(|x| (*x as f64 - max).exp()).sum();
            let loss = max + sum.ln() - row[*target as usize] as f64;
            if let Some(scale) = scale {
                for x in row.iter_mut() {
                    *x = (scale as f64 * (*x as f64 - max).exp() / sum) as f32;
                }
                row[*target as usize] -= scale;
            }
            loss as f32
        })
        .collect()
}
