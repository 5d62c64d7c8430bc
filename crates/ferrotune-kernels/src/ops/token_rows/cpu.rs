//! Few rows: the work is small beside the table's own, so only the head's products are split over the threads.

use super::Rows;
use crate::cpu::math::dot;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::Tensor;

per_isa! {
    /// `out += factor * x`.
    fn add_scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (o, v) in out.iter_mut().zip(x) {
            *o += factor * v;
        }
    }
}

per_isa! {
    fn product(x: &[f32], y: &[f32]) -> f32 {
        dot(x, y)
    }
}

pub(super) fn forward(cpu: &Cpu, rows: &Tensor, places: &[(usize, usize)], scale: f32, y: &mut Tensor) {
    let (d, isa) = (rows.cols(), cpu.isa());
    for (t, j) in places {
        let out = &mut y.host_f32_mut()[t * d..][..d];
        out.fill(0.0);
        add_scaled(isa, &rows.host_f32()[j * d..][..d], scale, out);
    }
}

pub(super) fn backward(cpu: &Cpu, places: &[(usize, usize)], scale: f32, dy: &Tensor, dr: &mut Tensor) {
    let (d, isa) = (dr.cols(), cpu.isa());
    for (t, j) in places {
        add_scaled(isa, &dy.host_f32()[t * d..][..d], scale, &mut dr.host_f32_mut()[j * d..][..d]);
    }
}

pub(super) fn head_forward(cpu: &Cpu, r: Rows<'_>, x: &[f32], y: &mut Tensor) {
    let (d, v, isa) = (r.rows.cols(), y.cols(), cpu.isa());
    let rows = y.rows();
    let y = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(rows, 4, |range| {
        for m in range {
            // SAFETY: every row belongs to one task.
            let y = unsafe { y.slice(m * v..(m + 1) * v) };
            for (id, row) in r.ids.iter().zip(r.rows.host_f32().chunks_exact(d)) {
                y[*id as usize] = product(isa, &x[m * d..][..d], row);
            }
        }
    });
}

pub(super) fn head_backward(
    cpu: &Cpu,
    rows: &Tensor,
    x: &[f32],
    columns: &[f32],
    dx: Option<&mut Tensor>,
    dr: Option<&mut Tensor>,
) {
    let ([j_all, d], isa) = (rows.shape(), cpu.isa());
    if let Some(dx) = dx {
        let m_all = dx.rows();
        let dx = SharedMut::new(dx.host_f32_mut());
        cpu.threads().run_ranges(m_all, 4, |range| {
            for m in range {
                // SAFETY: every row belongs to one task.
                let dx = unsafe { dx.slice(m * d..(m + 1) * d) };
                for (g, row) in columns[m * j_all..].iter().zip(rows.host_f32().chunks_exact(d)) {
                    add_scaled(isa, row, *g, dx);
                }
            }
        });
    }
    if let Some(dr) = dr {
        let dr = SharedMut::new(dr.host_f32_mut());
        cpu.threads().run_ranges(j_all, 1, |range| {
            for j in range {
                // SAFETY: every trained row belongs to one task.
                let row = unsafe { dr.slice(j * d..(j + 1) * d) };
                for (columns, x) in columns.chunks_exact(j_all).zip(x.chunks_exact(d)) {
                    add_scaled(isa, x, columns[j], row);
                }
            }
        });
    }
}
