//! Plain loops; sums in f64.

use super::Rows;
use crate::tensor::Tensor;

pub(super) fn forward(rows: &Tensor, places: &[(usize, usize)], scale: f32, y: &mut Tensor) {
    let d = rows.cols();
    for (t, j) in places {
        for i in 0..d {
            y.host_f32_mut()[t * d + i] = rows.host_f32()[j * d + i] * scale;
        }
    }
}

pub(super) fn backward(places: &[(usize, usize)], scale: f32, dy: &Tensor, dr: &mut Tensor) {
    let d = dr.cols();
    for (t, j) in places {
        for i in 0..d {
            dr.host_f32_mut()[j * d + i] += dy.host_f32()[t * d + i] * scale;
        }
    }
}

pub(super) fn head_forward(r: Rows<'_>, x: &[f32], y: &mut Tensor) {
    let (d, v) = (r.rows.cols(), y.cols());
    for (m, x) in x.chunks_exact(d).enumerate() {
        for (id, row) in r.ids.iter().zip(r.rows.host_f32().chunks_exact(d)) {
            let sum: f64 = x.iter().zip(row).map(|(a, b)| *a as f64 * *b as f64).sum();
            y.host_f32_mut()[m * v + *id as usize] = sum as f32;
        }
    }
}

pub(super) fn head_backward(
    rows: &Tensor,
    x: &[f32],
    columns: &[f32],
    mut dx: Option<&mut Tensor>,
    mut dr: Option<&mut Tensor>,
) {
    let [j_all, d] = rows.shape();
    for (m, columns) in columns.chunks_exact(j_all).enumerate() {
        for i in 0..d {
            let sum: f64 =
                columns.iter().enumerate().map(|(j, g)| *g as f64 * rows.host_f32()[j * d + i] as f64).sum();
            if let Some(dx) = dx.as_deref_mut() {
                dx.host_f32_mut()[m * d + i] += sum as f32;
            }
            if let Some(dr) = dr.as_deref_mut() {
                for (j, g) in columns.iter().enumerate() {
                    dr.host_f32_mut()[j * d + i] += g * x[m * d + i];
                }
            }
        }
    }
}
