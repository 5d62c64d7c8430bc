//! Rows split over the threads. The sum of a row runs in blocks that are added in f64: one f32 sum over a
//! vocabulary of 250 thousand is biased in the fourth decimal of the loss.

use crate::cpu::math::{exp, max, sum};
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

pub(super) fn forward(cpu: &Cpu, logits: &mut Tensor, targets: &[u32], scale: Option<f32>) -> Vec<f32> {
    let (v, isa) = (logits.cols(), cpu.isa());
    let mut losses = vec![0.0; targets.len()];
    let (rows, out) = (SharedMut::new(logits.f32_mut()), SharedMut::new(&mut losses));
    cpu.run(targets.len(), |t| {
        // SAFETY: every row belongs to one task.
        let (row, loss) = unsafe { (rows.slice(t * v..(t + 1) * v), &mut out.slice(t..t + 1)[0]) };
        let top = row_max(isa, row);
        let mut tmp = [0.0; BLOCK];
        let total: f64 = row.chunks(BLOCK).map(|block| sum_of_exp(isa, block, top, &mut tmp) as f64).sum();
        let target = targets[t] as usize;
        *loss = (top as f64 - row[target] as f64 + total.ln()) as f32;
        if let Some(scale) = scale {
            to_gradient(isa, row, top, (scale as f64 / total) as f32);
            row[target] -= scale;
        }
    });
    losses
}
