//! The loops of `reference.rs`, vectorised and split over the threads.

use super::Dropout;
use crate::cpu::math::dot;
use crate::cpu::words::{Mat, narrow, widen_row};
use crate::cpu::{Cpu, GRAIN, SharedMut, per_isa, row_grain};
use crate::dtype::DType;
use crate::tensor::Tensor;

per_isa! {
    fn add_range(y: &mut [f32], x: &[f32], scale: f32) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += scale * x;
        }
    }
}

per_isa! {
    fn scale_range(y: &mut [f32], scale: f32) {
        for y in y {
            *y *= scale;
        }
    }
}

per_isa! {
    fn dot_row(x: &[f32], y: &[f32]) -> f32 {
        dot(x, y)
    }
}

pub(super) fn add(cpu: &Cpu, y: &mut [f32], x: &[f32], scale: f32) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.threads().run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        add_range(cpu.isa(), unsafe { y.slice(r.clone()) }, &x[r], scale);
    });
}

pub(super) fn scale(cpu: &Cpu, y: &mut [f32], scale: f32) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.threads().run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        scale_range(cpu.isa(), unsafe { y.slice(r) }, scale);
    });
}

pub(super) fn copy_columns(cpu: &Cpu, x: &Tensor, from: usize, y: &mut Tensor, to: usize, n: usize) {
    fn copy<T: Copy + Send + Sync>(cpu: &Cpu, x: &[T], xc: usize, y: &mut [T], yc: usize, n: usize) {
        let rows = y.len().div_ceil(yc.max(1));
        let y = SharedMut::new(y);
        cpu.threads().run_ranges(rows, row_grain(n), |range| {
            for t in range {
                // SAFETY: every row belongs to one task.
                unsafe { y.slice(t * yc..t * yc + n) }.copy_from_slice(&x[t * xc..][..n]);
            }
        });
    }
    let (xc, yc) = (x.cols(), y.cols());
    match x.dtype() {
        DType::F32 => copy(cpu, &x.host_f32()[from..], xc, &mut y.host_f32_mut()[to..], yc, n),
        _ => copy(cpu, &x.host_bf16()[from..], xc, &mut y.host_bf16_mut()[to..], yc, n),
    }
}

/// Splits columns, so that rows named twice are summed in their order on any number of threads.
pub(super) fn add_rows(cpu: &Cpu, x: &Tensor, rows: &[u32], weights: &[f32], y: &mut Tensor) {
    let (cols, x) = (y.cols(), x.host_f32());
    let y = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(cols, (GRAIN / rows.len().max(1)).max(64), |range| {
        for (i, (row, weight)) in rows.iter().zip(weights).enumerate() {
            let at = *row as usize * cols;
            // SAFETY: every column belongs to one task.
            let y = unsafe { y.slice(at + range.start..at + range.end) };
            add_range(cpu.isa(), y, &x[i * cols..][range.clone()], *weight);
        }
    });
}

/// Splits columns, whose sums are then in the order of the rows on any number of threads.
pub(super) fn add_columns(cpu: &Cpu, sums: &mut Tensor, x: &Tensor) {
    let (rows, mat) = (x.rows(), Mat::from(x));
    let out = SharedMut::new(sums.host_f32_mut());
    cpu.threads().run_ranges(x.cols(), (GRAIN / rows.max(1)).max(64), |range| {
        let mut row = vec![0.0; range.len()];
        // SAFETY: ranges are disjoint.
        let sums = unsafe { out.slice(range.clone()) };
        for t in 0..rows {
            mat.read(cpu.isa(), t, range.start, &mut row);
            add_range(cpu.isa(), sums, &row, 1.0);
        }
    });
}

pub(super) fn row_products(cpu: &Cpu, x: &Tensor, rows: &[u32], y: &Tensor) -> Vec<f32> {
    let (cols, x, y) = (y.cols(), x.host_f32(), y.host_f32());
    let mut out = vec![0.0; rows.len()];
    let shared = SharedMut::new(&mut out);
    cpu.threads().run_ranges(rows.len(), row_grain(cols), |range| {
        for i in range {
            let y = &y[rows[i] as usize * cols..][..cols];
            // SAFETY: every element belongs to one task.
            unsafe { shared.slice(i..i + 1)[0] = dot_row(cpu.isa(), &x[i * cols..][..cols], y) };
        }
    });
    out
}

pub(super) fn cast(cpu: &Cpu, x: &Tensor, y: &mut Tensor) {
    let (n, isa) = (x.len(), cpu.isa());
    match (x.dtype(), y.dtype()) {
        (DType::F32, DType::F32) => {
            let (x, y) = (x.host_f32(), SharedMut::new(y.host_f32_mut()));
            cpu.threads().run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                unsafe { y.slice(r.clone()) }.copy_from_slice(&x[r]);
            });
        }
        (DType::F32, _) => {
            let (x, y) = (x.host_f32(), SharedMut::new(y.host_bf16_mut()));
            cpu.threads().run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                narrow(isa, &x[r.clone()], unsafe { y.slice(r) });
            });
        }
        (_, DType::F32) => {
            let (x, y) = (x.host_bf16(), SharedMut::new(y.host_f32_mut()));
            cpu.threads().run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                widen_row(isa, &x[r.clone()], unsafe { y.slice(r) });
            });
        }
        _ => y.host_bf16_mut().copy_from_slice(x.host_bf16()),
    }
}

pub(super) fn dropout(cpu: &Cpu, y: &mut [f32], drop: Dropout) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.threads().run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        for (i, y) in unsafe { y.slice(r.clone()) }.iter_mut().enumerate() {
            *y *= drop.factor(r.start + i);
        }
    });
}

pub(super) fn gather(cpu: &Cpu, x: &Tensor, rows: &[u32], y: &mut Tensor) {
    let (cols, mat) = (x.cols(), Mat::from(x));
    let y = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(rows.len(), row_grain(cols), |range| {
        for i in range {
            // SAFETY: every row belongs to one task.
            mat.read(cpu.isa(), rows[i] as usize, 0, unsafe { y.slice(i * cols..(i + 1) * cols) });
        }
    });
}
