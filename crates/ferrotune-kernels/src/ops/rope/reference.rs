//! Plain loops.

use super::{Pairs, Turn};

pub(super) fn rotate(
    x: &mut [f32],
    head_dim: usize,
    positions: &[u32],
    Turn { cos, sin, pairs }: Turn<'_>,
    sign: f32,
) {
    let half = cos.cols();
    let width = x.len() / positions.len().max(1);
    for (row, p) in x.chunks_exact_mut(width).zip(positions) {
        let at = *p as usize * half;
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (c, s) = (cos.host_f32()[at + i], sin.host_f32()[at + i] * sign);
                let [first, second] = match pairs {
                    Pairs::Halves => [i, i + half],
                    Pairs::Neighbours => [2 * i, 2 * i + 1],
                };
                let (a, b) = (head[first], head[second]);
                head[first] = a * c - b * s;
                head[second] = b * c + a * s;
            }
        }
    }
}
