//! The embedding with rows split over the threads; the backward splits columns, so that no two threads share an element.

use crate::cpu::{Cpu, SharedMut};
use crate::ops::linear::Matrix;
use crate::tensor::Tensor;

pub(super) fn forward(cpu: &Cpu, table: Matrix<'_>, tokens: &[u32], scale: f32, y: &mut [f32]) {
    let d = table.cols();
    let y = SharedMut::new(y);
    cpu.threads().run_ranges(tokens.len(), 64, |range| {
        for t in range {
            // SAFETY: every token has its own row.
            let row = unsafe { y.slice(t * d..(t + 1) * d) };
            table.mat().read(cpu.isa(), tokens[t] as usize, 0, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|v| *v *= scale);
            }
        }
    });
}

pub(super) fn backward(cpu: &Cpu, dy: &[f32], tokens: &[u32], scale: f32, dtable: &mut Tensor) {
    let d = dtable.cols();
    let table = SharedMut::new(dtable.host_f32_mut());
    cpu.threads().run_ranges(d, 64, |cols| {
        for (t, token) in tokens.iter().enumerate() {
            let start = *token as usize * d;
            // SAFETY: a task owns its columns in all rows.
            let row = unsafe { table.slice(start + cols.start..start + cols.end) };
            for (o, v) in row.iter_mut().zip(&dy[t * d + cols.start..]) {
                *o += v * scale;
            }
        }
    });
}
