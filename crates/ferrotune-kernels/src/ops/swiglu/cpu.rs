//! Vectorised, split over the threads.

use crate::cpu::gemm::Mat;
use crate::cpu::math::sigmoid;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

/// Elements handled at a time: inputs may need widening into a buffer on the stack.
const BLOCK: usize = 512;

per_isa! {
    fn forward_block(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for i in 0..y.len() {
            y[i] = gate[i] * sigmoid(gate[i]) * up[i];
        }
    }
}

per_isa! {
    fn backward_block(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for i in 0..dy.len() {
            let s = sigmoid(gate[i]);
            dup[i] = dy[i] * (gate[i] * s);
            dgate[i] = dy[i] * up[i] * (s * (1.0 + gate[i] * (1.0 - s)));
        }
    }
}

/// The tensor as one long row.
fn flat(t: &Tensor) -> Mat<'_> {
    Mat::from(t)
}

pub(super) fn forward(cpu: &Cpu, gate: &Tensor, up: &Tensor, y: &mut [f32]) {
    let (n, isa) = (y.len(), cpu.isa());
    let (gate, up, y) = (flat(gate), flat(up), SharedMut::new(y));
    cpu.run_ranges(n, 8 * BLOCK, |range| {
        let (mut g, mut u) = ([0.0; BLOCK], [0.0; BLOCK]);
        for at in range.clone().step_by(BLOCK) {
            let len = BLOCK.min(range.end - at);
            gate.read(0, at, &mut g[..len]);
            up.read(0, at, &mut u[..len]);
            // SAFETY: ranges are disjoint.
            forward_block(isa, &g[..len], &u[..len], unsafe { y.slice(at..at + len) });
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    gate: &Tensor,
    up: &Tensor,
    dy: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    let (n, isa) = (dy.len(), cpu.isa());
    let (gate, up) = (flat(gate), flat(up));
    let (dgate, dup) = (SharedMut::new(dgate), SharedMut::new(dup));
    cpu.run_ranges(n, 8 * BLOCK, |range| {
        let (mut g, mut u) = ([0.0; BLOCK], [0.0; BLOCK]);
        for at in range.clone().step_by(BLOCK) {
            let len = BLOCK.min(range.end - at);
            gate.read(0, at, &mut g[..len]);
            up.read(0, at, &mut u[..len]);
            // SAFETY: ranges are disjoint.
            let (dg, du) = unsafe { (dgate.slice(at..at + len), dup.slice(at..at + len)) };
            backward_block(isa, &g[..len], &u[..len], &dy[at..at + len], dg, du);
        }
    });
}
