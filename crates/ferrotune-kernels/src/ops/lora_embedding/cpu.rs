//! Tokens split over the threads; the gradient of B splits its rows, that of A the rank.

use super::Branch;
use crate::cpu::math::dot;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

per_isa! {
    /// `y[i] += b[i] . h` over the rows of `b`.
    fn add_products(b: &[f32], h: &[f32], y: &mut [f32]) {
        for (y, b) in y.iter_mut().zip(b.chunks_exact(h.len())) {
            *y += dot(b, h);
        }
    }
}

/// The columns of A that belong to the tokens, as rows `[T, R]` times `s`.
fn columns(branch: Branch<'_>, tokens: &[u32]) -> Vec<f32> {
    let (r, v) = (branch.a.rows(), branch.a.cols());
    let a = branch.a.host_f32();
    tokens.iter().flat_map(|id| (0..r).map(move |q| branch.scale * a[q * v + *id as usize])).collect()
}

pub(super) fn forward(cpu: &Cpu, branch: Branch<'_>, tokens: &[u32], y: &mut Tensor) {
    let (r, d, isa) = (branch.a.rows(), branch.b.rows(), cpu.isa());
    let h = columns(branch, tokens);
    let y = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(tokens.len(), 8, |range| {
        for t in range {
            // SAFETY: every token has its own row.
            let row = unsafe { y.slice(t * d..(t + 1) * d) };
            add_products(isa, branch.b.host_f32(), &h[t * r..][..r], row);
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    branch: Branch<'_>,
    tokens: &[u32],
    dy: &Tensor,
    da: &mut Tensor,
    db: &mut Tensor,
) {
    let (r, v, d) = (branch.a.rows(), branch.a.cols(), branch.b.rows());
    let (h, dy, b) = (columns(branch, tokens), dy.host_f32(), branch.b.host_f32());
    let db = SharedMut::new(db.host_f32_mut());
    cpu.threads().run_ranges(d, 16, |range| {
        // SAFETY: a row of dB belongs to one task.
        let rows = unsafe { db.slice(range.start * r..range.end * r) };
        for (dy, h) in dy.chunks_exact(d).zip(h.chunks_exact(r)) {
            for (row, dy) in rows.chunks_exact_mut(r).zip(&dy[range.clone()]) {
                row.iter_mut().zip(h).for_each(|(o, h)| *o += dy * h);
            }
        }
    });
    let da = SharedMut::new(da.host_f32_mut());
    cpu.threads().run_ranges(r, 1, |range| {
        for q in range {
            // SAFETY: a row of dA belongs to one task.
            let row = unsafe { da.slice(q * v..(q + 1) * v) };
            let column: Vec<f32> = b.iter().skip(q).step_by(r).copied().collect();
            for (id, dy) in tokens.iter().zip(dy.chunks_exact(d)) {
                row[*id as usize] += branch.scale * dot(dy, &column);
            }
        }
    });
}
