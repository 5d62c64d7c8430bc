//! A group at a time, rows split over the threads; `dw` and `db` split columns.

use super::{Applied, Grads};
use crate::cpu::math::{dot, sum};
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

/// Columns of `dw` and `db` that a task sums.
const COLUMNS: usize = 64;

per_isa! {
    /// Turns `x` into `(x - mean) r` and gives `(mean, r)`.
    fn normalise(x: &mut [f32], eps: f32) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = sum(x) / n;
        for v in x.iter_mut() {
            *v -= mean;
        }
        let r = 1.0 / (dot(x, x) / n + eps).sqrt();
        for v in x.iter_mut() {
            *v *= r;
        }
        (mean, r)
    }
}

per_isa! {
    fn affine(n: &[f32], w: &[f32], b: Option<&[f32]>, y: &mut [f32]) {
        match b {
            Some(b) => {
                for i in 0..y.len() {
                    y[i] = n[i] * w[i] + b[i];
                }
            }
            None => {
                for i in 0..y.len() {
                    y[i] = n[i] * w[i];
                }
            }
        }
    }
}

per_isa! {
    /// Adds to `dx`; `tmp` takes `dy w`.
    fn backward_row(n: &[f32], w: &[f32], r: f32, dy: &[f32], dx: &mut [f32], tmp: &mut [f32]) {
        let d = n.len();
        for i in 0..d {
            tmp[i] = dy[i] * w[i];
        }
        let average = sum(tmp) / d as f32;
        let along = dot(tmp, n) / d as f32;
        for i in 0..d {
            dx[i] += r * (tmp[i] - average - n[i] * along);
        }
    }
}

pub(super) fn forward(cpu: &Cpu, x: &Tensor, of: Applied<'_>, b: Option<&[f32]>, y: &mut Tensor) {
    let Applied { w, groups, eps } = of;
    let (d, isa, y) = (groups.width, cpu.isa(), Out::from(y));
    groups.each(cpu, x, |i, at, row, spare| {
        normalise(isa, row, eps);
        // SAFETY: every group belongs to one task.
        unsafe {
            y.write(isa, i * d, d, spare, |y| affine(isa, row, &w[at..][..d], b.map(|b| &b[at..][..d]), y));
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    x: &Tensor,
    of: Applied<'_>,
    dy: &[f32],
    dx: &mut [f32],
    mut grads: Grads<'_>,
) {
    let Applied { w, groups, eps } = of;
    let (d, isa, mat) = (groups.width, cpu.isa(), Mat::from(x));
    let count = x.rows() * groups.count;
    let mut moments = cpu.pool().take(2 * count);
    let (dx, stored) = (SharedMut::new(dx), SharedMut::new(moments.f32_mut()));
    groups.each(cpu, x, |i, at, row, tmp| {
        let (mean, r) = normalise(isa, row, eps);
        // SAFETY: every group belongs to one task.
        let (dx, stored) = unsafe { (dx.slice(i * d..(i + 1) * d), stored.slice(2 * i..2 * i + 2)) };
        stored.copy_from_slice(&[mean, r]);
        backward_row(isa, row, &w[at..][..d], r, &dy[i * d..][..d], dx, tmp);
    });
    let moments = moments.f32();
    let chunks = d.div_ceil(COLUMNS);
    for (sums, of_n) in [(grads.weight.take(), true), (grads.bias.take(), false)] {
        let Some(sums) = sums else { continue };
        let sums = SharedMut::new(sums.host_f32_mut());
        cpu.threads().run(groups.weights * chunks, |task| {
            let (own, start) = (task / chunks, task % chunks * COLUMNS);
            let len = (d - start).min(COLUMNS);
            // SAFETY: every column belongs to one task.
            let sums = unsafe { sums.slice(own * d + start..own * d + start + len) };
            let mut row = [1.0; COLUMNS];
            for t in 0..x.rows() {
                for g in (own..groups.count).step_by(groups.weights) {
                    let i = t * groups.count + g;
                    if of_n {
                        mat.read(isa, t, g * d + start, &mut row[..len]);
                        row[..len].iter_mut().for_each(|v| *v = (*v - moments[2 * i]) * moments[2 * i + 1]);
                    }
                    for ((sum, n), dy) in sums.iter_mut().zip(&row).zip(&dy[i * d + start..]) {
                        *sum += dy * n;
                    }
                }
            }
        });
    }
}
