//! Rows split over the threads.

use super::{Pairs, Turn};
use crate::cpu::words::narrow;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

per_isa! {
    fn rotate_halves(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in row.chunks_exact_mut(head_dim) {
            let (a, rest) = head.split_at_mut(half);
            let b = &mut rest[..half];
            for i in 0..half {
                let (c, s) = (cos[i], sin[i] * sign);
                let (x, y) = (a[i], b[i]);
                a[i] = x * c - y * s;
                b[i] = y * c + x * s;
            }
        }
    }
}

per_isa! {
    fn rotate_neighbours(row: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        for head in row.chunks_exact_mut(head_dim) {
            for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (x, y, s) = (pair[0], pair[1], s * sign);
                pair[0] = x * c - y * s;
                pair[1] = y * c + x * s;
            }
        }
    }
}

/// Rotates in place, and puts the rows into `out` too while they are in the cache.
pub(super) fn rotate(
    cpu: &Cpu,
    x: &mut [f32],
    head_dim: usize,
    positions: &[u32],
    Turn { cos, sin, pairs }: Turn<'_>,
    sign: f32,
    out: Option<&mut Tensor>,
) {
    let (half, isa) = (cos.cols(), cpu.isa());
    let width = x.len() / positions.len().max(1);
    let (cos, sin) = (cos.host_f32(), sin.host_f32());
    let (x, out) = (SharedMut::new(x), out.map(|t| SharedMut::new(t.host_bf16_mut())));
    cpu.threads().run_ranges(positions.len(), 32, |range| {
        for t in range {
            let at = positions[t] as usize * half;
            // SAFETY: every row belongs to one task.
            let row = unsafe { x.slice(t * width..(t + 1) * width) };
            let (cos, sin) = (&cos[at..][..half], &sin[at..][..half]);
            match pairs {
                Pairs::Halves => rotate_halves(isa, row, head_dim, cos, sin, sign),
                Pairs::Neighbours => rotate_neighbours(isa, row, head_dim, cos, sin, sign),
            }
            if let Some(out) = &out {
                // SAFETY: as above.
                narrow(isa, row, unsafe { out.slice(t * width..(t + 1) * width) });
            }
        }
    });
}
