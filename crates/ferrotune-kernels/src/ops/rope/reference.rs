//! Plain loops.

use crate::tensor::Tensor;

pub(super) fn rotate(
    x: &mut [f32],
    head_dim: usize,
    positions: &[u32],
    cos: &Tensor,
    sin: &Tensor,
    sign: f32,
) {
    let half = cos.cols();
    let width = x.len() / positions.len().max(1);
    for (row, p) in x.chunks_exact_mut(width).zip(positions) {
        let at = *p as usize * half;
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (c, s) = (cos.host_f32()[at + i], sin.host_f32()[at + i] * sign);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * c - b * s;
                head[i + half] = b * c + a * s;
            }
        }
    }
}
