//! Rows of W and of the outputs split over the threads; the sums of columns split by columns.

use super::Lengths;
use crate::cpu::math::dot;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::ops::linear::Matrix;
use crate::tensor::Tensor;

per_isa! {
    /// The length of `row + sum of factors[q] a[q]`; `row` is changed.
    fn length(row: &mut [f32], factors: &[f32], scale: f32, a: &[f32]) -> f32 {
        let k = row.len();
        for (q, factor) in factors.iter().enumerate() {
            let (factor, a) = (*factor * scale, &a[q * k..][..k]);
            for i in 0..k {
                row[i] += factor * a[i];
            }
        }
        dot(row, row).sqrt()
    }
}

per_isa! {
    fn scale_row(z: &[f32], magnitude: &[f32], norm: &[f32], accumulate: bool, y: &mut [f32]) {
        let n = y.len();
        let (z, magnitude, norm) = (&z[..n], &magnitude[..n], &norm[..n]);
        if accumulate {
            for j in 0..n {
                y[j] += z[j] * (magnitude[j] / norm[j]);
            }
        } else {
            for j in 0..n {
                y[j] = z[j] * (magnitude[j] / norm[j]);
            }
        }
    }
}

pub(super) fn row_norms(
    cpu: &Cpu,
    weight: Matrix<'_>,
    branch: Option<(&Tensor, &Tensor, f32)>,
    norm: &mut [f32],
) {
    let (k, isa) = (weight.cols(), cpu.isa());
    let out = SharedMut::new(norm);
    cpu.threads().run_ranges(weight.rows(), 8, |range| {
        let mut row = cpu.pool().take(k);
        let row = &mut row.f32_mut()[..k];
        // SAFETY: every row of W belongs to one task.
        let out = unsafe { out.slice(range.clone()) };
        for (j, out) in range.zip(out) {
            weight.mat().read(cpu.isa(), j, 0, row);
            *out = match branch {
                Some((a, b, scale)) => {
                    let r = a.rows();
                    length(isa, row, &b.host_f32()[j * r..][..r], scale, a.host_f32())
                }
                None => length(isa, row, &[], 0.0, &[]),
            };
        }
    });
}

pub(super) fn forward(
    cpu: &Cpu,
    z: &Tensor,
    l: Lengths<'_>,
    bias: Option<&Tensor>,
    y: &mut Tensor,
    accumulate: bool,
) {
    let (n, isa) = (z.cols(), cpu.isa());
    let out = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(z.rows(), 4, |range| {
        for m in range {
            // SAFETY: every row belongs to one task.
            let y = unsafe { out.slice(m * n..(m + 1) * n) };
            scale_row(
                isa,
                &z.host_f32()[m * n..][..n],
                l.magnitude.host_f32(),
                l.norm.host_f32(),
                accumulate,
                y,
            );
            if let Some(bias) = bias {
                y.iter_mut().zip(bias.host_f32()).for_each(|(y, b)| *y += b);
            }
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    dy: &Tensor,
    z: &Tensor,
    l: Lengths<'_>,
    dz: &mut Tensor,
    dm: Option<&mut Tensor>,
) {
    forward(cpu, dy, l, None, dz, false);
    let Some(dm) = dm else { return };
    let n = z.cols();
    let out = SharedMut::new(dm.host_f32_mut());
    cpu.threads().run_ranges(n, 64, |range| {
        let mut sums = vec![0.0f32; range.len()];
        for (dy, z) in dy.host_f32().chunks_exact(n).zip(z.host_f32().chunks_exact(n)) {
            for ((sum, dy), z) in sums.iter_mut().zip(&dy[range.clone()]).zip(&z[range.clone()]) {
                *sum += dy * z;
            }
        }
        // SAFETY: a column belongs to one task.
        let out = unsafe { out.slice(range.clone()) };
        for ((out, sum), norm) in out.iter_mut().zip(sums).zip(&l.norm.host_f32()[range]) {
            *out += sum / norm;
        }
    });
}
