//! A row at a time, rows split over the threads; `dw` splits columns.

use crate::cpu::gemm::Mat;
use crate::cpu::math::dot;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

per_isa! {
    fn forward_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
        let r = 1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt();
        for i in 0..y.len() {
            y[i] = x[i] * r * w[i];
        }
    }
}

per_isa! {
    /// Adds to `dx` and gives the inverse RMS; `tmp` takes `dy w`.
    fn backward_row(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], tmp: &mut [f32]) -> f32 {
        let d = x.len();
        let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
        for i in 0..d {
            tmp[i] = dy[i] * w[i];
        }
        let c = dot(tmp, x) / d as f32 * r * r;
        for i in 0..d {
            dx[i] += r * (tmp[i] - x[i] * c);
        }
        r
    }
}

pub(super) fn forward(cpu: &Cpu, x: &Tensor, w: &[f32], eps: f32, y: &mut [f32]) {
    let (d, isa, mat) = (w.len(), cpu.isa(), Mat::from(x));
    let y = SharedMut::new(y);
    cpu.run_ranges(x.rows(), 16, |range| {
        let mut row = cpu.pool().take(d);
        let row = &mut row.f32_mut()[..d];
        for t in range {
            mat.read(t, 0, row);
            // SAFETY: every row belongs to one task.
            forward_row(isa, row, w, eps, unsafe { y.slice(t * d..(t + 1) * d) });
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    x: &Tensor,
    w: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dw: Option<&mut Tensor>,
) {
    let (d, isa, mat) = (w.len(), cpu.isa(), Mat::from(x));
    let mut inverse = cpu.pool().take(x.rows());
    let (dx, r) = (SharedMut::new(dx), SharedMut::new(inverse.f32_mut()));
    cpu.run_ranges(x.rows(), 16, |range| {
        let mut buffer = cpu.pool().take(2 * d);
        let (row, tmp) = buffer.f32_mut()[..2 * d].split_at_mut(d);
        for t in range {
            mat.read(t, 0, row);
            // SAFETY: every row belongs to one task.
            let (dx, r) = unsafe { (dx.slice(t * d..(t + 1) * d), r.slice(t..t + 1)) };
            r[0] = backward_row(isa, row, w, eps, &dy[t * d..][..d], dx, tmp);
        }
    });
    let Some(dw) = dw else { return };
    let inverse = inverse.f32();
    let dw = SharedMut::new(dw.f32_mut());
    cpu.run_ranges(d, 64, |cols| {
        // SAFETY: every column belongs to one task.
        let dw = unsafe { dw.slice(cols.clone()) };
        let mut row = vec![0.0; cols.len()];
        for t in 0..x.rows() {
            mat.read(t, cols.start, &mut row);
            for ((o, x), g) in dw.iter_mut().zip(&row).zip(&dy[t * d + cols.start..]) {
                *o += g * x * inverse[t];
            }
        }
    });
}
