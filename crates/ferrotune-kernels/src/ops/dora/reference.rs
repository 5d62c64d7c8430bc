//! Plain loops; sums in f64.

use super::Lengths;
use crate::cpu::Isa;
use crate::ops::linear::Matrix;
use crate::tensor::Tensor;

pub(super) fn row_norms(weight: Matrix<'_>, branch: Option<(&Tensor, &Tensor, f32)>, norm: &mut [f32]) {
    let k = weight.cols();
    let mut row = vec![0.0f32; k];
    for (j, out) in norm.iter_mut().enumerate() {
        weight.mat().read(Isa::Portable, j, 0, &mut row);
        let mut squares = 0.0f64;
        for (i, w) in row.iter().enumerate() {
            let mut value = *w as f64;
            if let Some((a, b, scale)) = branch {
                let r = a.rows();
                let product: f64 =
                    (0..r).map(|q| b.host_f32()[j * r + q] as f64 * a.host_f32()[q * k + i] as f64).sum();
                value += scale as f64 * product;
            }
            squares += value * value;
        }
        *out = squares.sqrt() as f32;
    }
}

fn gain(l: Lengths<'_>, j: usize) -> f64 {
    l.magnitude.host_f32()[j] as f64 / l.norm.host_f32()[j] as f64
}

pub(super) fn forward(z: &Tensor, l: Lengths<'_>, bias: Option<&Tensor>, y: &mut Tensor, accumulate: bool) {
    let n = z.cols();
    for (i, (y, z)) in y.host_f32_mut().iter_mut().zip(z.host_f32()).enumerate() {
        let j = i % n;
        let value = *z as f64 * gain(l, j) + bias.map_or(0.0, |b| b.host_f32()[j] as f64);
        *y = (if accumulate { *y as f64 } else { 0.0 } + value) as f32;
    }
}

pub(super) fn backward(dy: &Tensor, z: &Tensor, l: Lengths<'_>, dz: &mut Tensor, dm: Option<&mut Tensor>) {
    let n = z.cols();
    for (i, (dz, dy)) in dz.host_f32_mut().iter_mut().zip(dy.host_f32()).enumerate() {
        *dz = (*dy as f64 * gain(l, i % n)) as f32;
    }
    let Some(dm) = dm else { return };
    for (j, dm) in dm.host_f32_mut().iter_mut().enumerate() {
        let column = (0..z.rows()).map(|m| dy.host_f32()[m * n + j] as f64 * z.host_f32()[m * n + j] as f64);
        *dm += (column.sum::<f64>() / l.norm.host_f32()[j] as f64) as f32;
    }
}
