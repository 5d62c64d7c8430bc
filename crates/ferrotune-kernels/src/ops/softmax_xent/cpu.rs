//! Rows split over the threads. The sum of a row runs in blocks that are added in f64: one f32 sum over a
//! vocabulary of 250 thousand is biased in the fourth decimal of the loss.

use half::bf16;

use super::Logits;
use crate::cpu::math::{exp, max, sum, tanh};
use crate::cpu::{Cpu, Isa, SharedMut, per_isa, words};
use crate::tensor::Tensor;

const BLOCK: usize = 2048;

per_isa! {
    fn row_max(x: &[f32]) -> f32 {
        max(x)
    }
}

per_isa! {
    /// Turns a block into `exp(x - top)`; gives the sum.
    fn to_exp(x: &mut [f32], top: f32) -> f32 {
        for x in x.iter_mut() {
            *x = exp(*x - top);
        }
        sum(x)
    }
}

per_isa! {
    fn scale(x: &mut [f32], factor: f32) {
        for v in x {
            *v *= factor;
        }
    }
}

per_isa! {
    fn to_logits(x: &mut [f32], how: Logits) {
        for v in x.iter_mut() {
            *v *= how.scale;
        }
        if let Some(cap) = how.cap {
            for v in x {
                *v = cap * tanh(*v / cap);
            }
        }
    }
}

per_isa! {
    /// `e` times the slope of the cap at the logit `z`.
    fn slope_of_cap(z: &[f32], e: &mut [f32], cap: f32) {
        for (z, e) in z.iter().zip(e) {
            let t = *z / cap;
            *e *= 1.0 - t * t;
        }
    }
}

pub(super) fn logits(cpu: &Cpu, x: &mut [f32], how: Logits) {
    let (n, isa) = (x.len(), cpu.isa());
    let x = SharedMut::new(x);
    cpu.threads().run_ranges(n, 16 * BLOCK, |r| {
        // SAFETY: ranges are disjoint.
        to_logits(isa, unsafe { x.slice(r) }, how);
    });
}

/// A row of outputs after [`exponentials`].
struct Row {
    loss: f32,
    /// Sum of the exponentials.
    total: f64,
    /// The target's logit.
    own: f32,
}

/// Turns outputs into `exp(z - largest)` of their logits `z`, with `slopes` times the slope of the cap at `z`.
fn exponentials(isa: Isa, row: &mut [f32], target: usize, how: Logits, slopes: bool) -> Row {
    if !how.is_identity() {
        to_logits(isa, row, how);
    }
    let (top, own) = (row_max(isa, row), row[target]);
    let mut total = 0.0f64;
    let mut z = [0.0; BLOCK];
    for block in row.chunks_mut(BLOCK) {
        let cap = how.cap.filter(|_| slopes);
        let z = &mut z[..block.len()];
        if cap.is_some() {
            z.copy_from_slice(block);
        }
        total += to_exp(isa, block, top) as f64;
        if let Some(cap) = cap {
            slope_of_cap(isa, z, block, cap);
        }
    }
    Row { loss: (top as f64 - own as f64 + total.ln()) as f32, total, own }
}

pub(super) fn forward(cpu: &Cpu, outputs: &mut Tensor, targets: &[u32], how: Logits) -> Vec<f32> {
    let (v, isa) = (outputs.cols(), cpu.isa());
    let mut losses = vec![0.0; targets.len()];
    let (rows, out) = (SharedMut::new(outputs.host_f32_mut()), SharedMut::new(&mut losses));
    cpu.threads().run(targets.len(), |t| {
        // SAFETY: every row belongs to one task.
        let (row, loss) = unsafe { (rows.slice(t * v..(t + 1) * v), &mut out.slice(t..t + 1)[0]) };
        *loss = exponentials(isa, row, targets[t] as usize, how, false).loss;
    });
    losses
}

/// The gradient takes the place of the outputs; in bf16 (`narrow`) that of their first half, so that a row lies in the place
/// of earlier ones.
///
/// Rows are taken in runs that double, `[a, 2a)`: the gradients of a run cover the outputs `[a/2, a)`, which the run before
/// has read, and no gradient that was written. The first row covers its own beginning, block by block.
pub(super) fn forward_backward(
    cpu: &Cpu,
    outputs: &mut Tensor,
    targets: &[u32],
    how: Logits,
    scales: &[f32],
    narrow: bool,
) -> Vec<f32> {
    let (v, isa) = (outputs.cols(), cpu.isa());
    let mut losses = vec![0.0; targets.len()];
    let (halves, out) = (SharedMut::new(outputs.halves_mut()), SharedMut::new(&mut losses));
    let one = |t: usize| {
        // SAFETY: the outputs of every row belong to one task.
        let (row, loss) = unsafe { (halves.slice(2 * t * v..2 * (t + 1) * v), &mut out.slice(t..t + 1)[0]) };
        let row: &mut [f32] = bytemuck::cast_slice_mut(row);
        let target = targets[t] as usize;
        let Row { loss: own_loss, total, own } = exponentials(isa, row, target, how, true);
        *loss = own_loss;
        let factor = scales[t] * how.scale;
        let slope = how.cap.map_or(1.0, |cap| 1.0 - (own / cap).powi(2));
        let factor_of_exp = (factor as f64 / total) as f32;
        // The target's own value, so that blocks can be rounded as soon as they are scaled.
        let own = row[target] * factor_of_exp - factor * slope;
        let mut rounded = [bf16::ZERO; BLOCK];
        for start in (0..v).step_by(BLOCK) {
            let len = BLOCK.min(v - start);
            let words = 2 * (t * v + start)..2 * (t * v + start + len);
            // SAFETY: as above; earlier blocks of the row are not read again.
            let block: &mut [f32] = bytemuck::cast_slice_mut(unsafe { halves.slice(words) });
            scale(isa, block, factor_of_exp);
            if target / BLOCK == start / BLOCK {
                block[target % BLOCK] = own;
            }
            if narrow {
                words::narrow(isa, block, &mut rounded[..len]);
                let start = t * v + start;
                // SAFETY: these halves belong to outputs that have been read, and to no other row's gradient.
                unsafe { halves.slice(start..start + len) }.copy_from_slice(&rounded[..len]);
            }
        }
    };
    if !narrow {
        cpu.threads().run(targets.len(), one);
        return losses;
    }
    let (mut from, mut to) = (0, 1.min(targets.len()));
    while from < targets.len() {
        cpu.threads().run(to - from, |i| one(from + i));
        (from, to) = (to, (2 * to).min(targets.len()));
    }
    losses
}
