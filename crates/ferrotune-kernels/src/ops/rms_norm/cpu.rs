//! A group at a time, rows split over the threads; `dw` splits columns.

use super::{Applied, RmsNorm};
use crate::cpu::math::dot;
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

/// Columns of `dw` that a task sums.
const COLUMNS: usize = 64;

per_isa! {
    fn forward_row(x: &[f32], w: &[f32], norm: RmsNorm, y: &mut [f32]) {
        let r = 1.0 / (dot(x, x) / x.len() as f32 + norm.eps).sqrt();
        for i in 0..y.len() {
            y[i] = x[i] * r * (norm.offset + w[i]);
        }
    }
}

per_isa! {
    /// Adds to `dx` and gives the inverse RMS; `tmp` takes `dy w`.
    fn backward_row(x: &[f32], w: &[f32], norm: RmsNorm, dy: &[f32], dx: &mut [f32], tmp: &mut [f32]) -> f32 {
        let d = x.len();
        let r = 1.0 / (dot(x, x) / d as f32 + norm.eps).sqrt();
        for i in 0..d {
            tmp[i] = dy[i] * (norm.offset + w[i]);
        }
        let c = dot(tmp, x) / d as f32 * r * r;
        for i in 0..d {
            dx[i] += r * (tmp[i] - x[i] * c);
        }
        r
    }
}

pub(super) fn forward(cpu: &Cpu, x: &Tensor, of: Applied<'_>, y: &mut Tensor) {
    let Applied { w, groups, norm } = of;
    let (d, isa, y) = (groups.width, cpu.isa(), Out::from(y));
    groups.each(cpu, x, |i, at, row, spare| {
        // SAFETY: every group belongs to one task.
        unsafe { y.write(isa, i * d, d, spare, |y| forward_row(isa, row, &w[at..][..d], norm, y)) };
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    x: &Tensor,
    of: Applied<'_>,
    dy: &[f32],
    dx: &mut [f32],
    dw: Option<&mut Tensor>,
) {
    let Applied { w, groups, norm } = of;
    let (d, isa, mat) = (groups.width, cpu.isa(), Mat::from(x));
    let mut inverse = cpu.pool().take(x.rows() * groups.count);
    let (dx, r) = (SharedMut::new(dx), SharedMut::new(inverse.f32_mut()));
    groups.each(cpu, x, |i, at, row, tmp| {
        // SAFETY: every group belongs to one task.
        let (dx, r) = unsafe { (dx.slice(i * d..(i + 1) * d), r.slice(i..i + 1)) };
        r[0] = backward_row(isa, row, &w[at..][..d], norm, &dy[i * d..][..d], dx, tmp);
    });
    let Some(dw) = dw else { return };
    let inverse = inverse.f32();
    let dw = SharedMut::new(dw.host_f32_mut());
    let chunks = d.div_ceil(COLUMNS);
    cpu.threads().run(groups.weights * chunks, |task| {
        let (own, start) = (task / chunks, task % chunks * COLUMNS);
        let len = (d - start).min(COLUMNS);
        // SAFETY: every column belongs to one task.
        let dw = unsafe { dw.slice(own * d + start..own * d + start + len) };
        let mut row = [0.0; COLUMNS];
        for t in 0..x.rows() {
            for g in (own..groups.count).step_by(groups.weights) {
                mat.read(isa, t, g * d + start, &mut row[..len]);
                let i = t * groups.count + g;
                for ((o, x), dy) in dw.iter_mut().zip(&row).zip(&dy[i * d + start..]) {
                    *o += dy * x * inverse[i];
                }
            }
        }
    });
}
