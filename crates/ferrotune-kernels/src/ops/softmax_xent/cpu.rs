//! Rows split over the threads. The sum of a row runs in blocks that are added in f64: one f32 sum over a
//! vocabulary of 250 thousand is biased in the fourth decimal of the loss.

use super::Logits;
use crate::cpu::math::{exp, max, sum, tanh};
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

const BLOCK: usize = 2048;

per_isa! {
    fn row_max(x: &[f32]) -> f32 {
        max(x)
    }
}

per_isa! {
    /// Sum of `exp(x - top)` over a block.
    fn sum_of_exp(x: &[f32], top: f32, tmp: &mut [f32]) -> f32 {
        let tmp = &mut tmp[..x.len()];
        for (t, x) in tmp.iter_mut().zip(x) {
            *t = exp(*x - top);
        }
        sum(tmp)
    }
}

per_isa! {
    fn to_gradient(x: &mut [f32], top: f32, factor: f32) {
        for v in x {
            *v = exp(*v - top) * factor;
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
    /// `factor exp(z - top)` times the slope of `z` in the head's output.
    fn to_capped_gradient(z: &mut [f32], top: f32, factor: f32, cap: f32) {
        for v in z {
            let t = *v / cap;
            *v = exp(*v - top) * factor * (1.0 - t * t);
        }
    }
}

pub(super) fn logits(cpu: &Cpu, x: &mut [f32], how: Logits) {
    let (n, isa) = (x.len(), cpu.isa());
    let x = SharedMut::new(x);
    cpu.run_ranges(n, 16 * BLOCK, |r| {
        // SAFETY: ranges are disjoint.
        to_logits(isa, unsafe { x.slice(r) }, how);
    });
}

pub(super) fn forward(
    cpu: &Cpu,
    logits: &mut Tensor,
    targets: &[u32],
    how: Logits,
    scale: Option<f32>,
) -> Vec<f32> {
    let (v, isa) = (logits.cols(), cpu.isa());
    let mut losses = vec![0.0; targets.len()];
    let (rows, out) = (SharedMut::new(logits.f32_mut()), SharedMut::new(&mut losses));
    cpu.run(targets.len(), |t| {
        // SAFETY: every row belongs to one task.
        let (row, loss) = unsafe { (rows.slice(t * v..(t + 1) * v), &mut out.slice(t..t + 1)[0]) };
        if !how.is_identity() {
            to_logits(isa, row, how);
        }
        let top = row_max(isa, row);
        let mut tmp = [0.0; BLOCK];
        let total: f64 = row.chunks(BLOCK).map(|block| sum_of_exp(isa, block, top, &mut tmp) as f64).sum();
        let target = targets[t] as usize;
        *loss = (top as f64 - row[target] as f64 + total.ln()) as f32;
        if let Some(scale) = scale {
            let scale = scale * how.scale;
            let factor = (scale as f64 / total) as f32;
            let slope = how.cap.map_or(1.0, |cap| 1.0 - (row[target] / cap).powi(2));
            match how.cap {
                None => to_gradient(isa, row, top, factor),
                Some(cap) => to_capped_gradient(isa, row, top, factor, cap),
            }
            row[target] -= scale * slope;
        }
    });
    losses
}
