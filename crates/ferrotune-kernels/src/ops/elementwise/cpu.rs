//! The same loops, vectorised and split over the threads.

use half::bf16;

use super::Dropout;
use crate::cpu::gemm::{rounded_bits, widen};
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Elements of a range worth handing to a thread.
const GRAIN: usize = 32 * 1024;

per_isa! {
    fn add_range(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

per_isa! {
    fn subtract_range(y: &mut [f32], x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y -= x;
        }
    }
}

per_isa! {
    fn narrow_range(x: &[f32], y: &mut [bf16]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = bf16::from_bits((rounded_bits(*x) >> 16) as u16);
        }
    }
}

per_isa! {
    fn widen_range(x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = widen(*x);
        }
    }
}

pub(super) fn add(cpu: &Cpu, y: &mut [f32], x: &[f32]) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        add_range(cpu.isa(), unsafe { y.slice(r.clone()) }, &x[r]);
    });
}

pub(super) fn subtract(cpu: &Cpu, y: &mut [f32], x: &[f32]) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        subtract_range(cpu.isa(), unsafe { y.slice(r.clone()) }, &x[r]);
    });
}

pub(super) fn cast(cpu: &Cpu, x: &Tensor, y: &mut Tensor) {
    let (n, isa) = (x.len(), cpu.isa());
    match (x.dtype(), y.dtype()) {
        (DType::F32, DType::F32) => {
            let (x, y) = (x.f32(), SharedMut::new(y.f32_mut()));
            cpu.run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                unsafe { y.slice(r.clone()) }.copy_from_slice(&x[r]);
            });
        }
        (DType::F32, _) => {
            let (x, y) = (x.f32(), SharedMut::new(y.bf16_mut()));
            cpu.run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                narrow_range(isa, &x[r.clone()], unsafe { y.slice(r) });
            });
        }
        (_, DType::F32) => {
            let (x, y) = (x.bf16(), SharedMut::new(y.f32_mut()));
            cpu.run_ranges(n, GRAIN, |r| {
                // SAFETY: ranges are disjoint.
                widen_range(isa, &x[r.clone()], unsafe { y.slice(r) });
            });
        }
        _ => y.bf16_mut().copy_from_slice(x.bf16()),
    }
}

pub(super) fn dropout(cpu: &Cpu, y: &mut [f32], drop: Dropout) {
    let n = y.len();
    let y = SharedMut::new(y);
    cpu.run_ranges(n, GRAIN, |r| {
        // SAFETY: ranges are disjoint.
        for (i, y) in unsafe { y.slice(r.clone()) }.iter_mut().enumerate() {
            *y *= drop.factor(r.start + i);
        }
    });
}
