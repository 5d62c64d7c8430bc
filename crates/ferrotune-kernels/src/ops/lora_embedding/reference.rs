//! Plain loops; sums in f64.

use super::Branch;
use crate::tensor::Tensor;

pub(super) fn forward(branch: Branch<'_>, tokens: &[u32], y: &mut Tensor) {
    let (r, v, d) = (branch.a.rows(), branch.a.cols(), branch.b.rows());
    for (t, token) in tokens.iter().enumerate() {
        for i in 0..d {
            let product: f64 = (0..r)
                .map(|q| {
                    branch.b.host_f32()[i * r + q] as f64
                        * branch.a.host_f32()[q * v + *token as usize] as f64
                })
                .sum();
            y.host_f32_mut()[t * d + i] += (branch.scale as f64 * product) as f32;
        }
    }
}

pub(super) fn backward(branch: Branch<'_>, tokens: &[u32], dy: &Tensor, da: &mut Tensor, db: &mut Tensor) {
    let (r, v, d) = (branch.a.rows(), branch.a.cols(), branch.b.rows());
    let (s, dy) = (branch.scale as f64, dy.host_f32());
    for q in 0..r {
        for i in 0..d {
            let sum: f64 = tokens
                .iter()
                .enumerate()
                .map(|(t, id)| dy[t * d + i] as f64 * branch.a.host_f32()[q * v + *id as usize] as f64)
                .sum();
            db.host_f32_mut()[i * r + q] += (s * sum) as f32;
        }
        for (t, id) in tokens.iter().enumerate() {
            let sum: f64 = (0..d).map(|i| dy[t * d + i] as f64 * branch.b.host_f32()[i * r + q] as f64).sum();
            da.host_f32_mut()[q * v + *id as usize] += (s * sum) as f32;
        }
    }
}
