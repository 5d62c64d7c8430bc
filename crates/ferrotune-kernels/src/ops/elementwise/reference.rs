//! Plain loops.

use half::bf16;

use super::Dropout;
use crate::dtype::DType;
use crate::tensor::Tensor;

pub(super) fn add(y: &mut [f32], x: &[f32], scale: f32) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += scale * x;
    }
}

pub(super) fn scale(y: &mut [f32], scale: f32) {
    y.iter_mut().for_each(|y| *y *= scale);
}

pub(super) fn copy_columns(x: &Tensor, from: usize, y: &mut Tensor, to: usize, n: usize) {
    let (xc, yc) = (x.cols(), y.cols());
    for t in 0..x.rows() {
        match x.dtype() {
            DType::F32 => {
                y.host_f32_mut()[t * yc + to..][..n].copy_from_slice(&x.host_f32()[t * xc + from..][..n])
            }
            _ => y.host_bf16_mut()[t * yc + to..][..n].copy_from_slice(&x.host_bf16()[t * xc + from..][..n]),
        }
    }
}

pub(super) fn add_rows(x: &Tensor, rows: &[u32], weights: &[f32], y: &mut Tensor) {
    let cols = y.cols();
    for (i, (row, weight)) in rows.iter().zip(weights).enumerate() {
        let x = &x.host_f32()[i * cols..][..cols];
        for (y, x) in y.host_f32_mut()[*row as usize * cols..][..cols].iter_mut().zip(x) {
            *y += weight * x;
        }
    }
}

pub(super) fn row_products(x: &Tensor, rows: &[u32], y: &Tensor) -> Vec<f32> {
    let cols = y.cols();
    let row = |(i, r): (usize, &u32)| {
        let (x, y) = (&x.host_f32()[i * cols..][..cols], &y.host_f32()[*r as usize * cols..][..cols]);
        x.iter().zip(y).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() as f32
    };
    rows.iter().enumerate().map(row).collect()
}

pub(super) fn add_columns(sums: &mut Tensor, x: &Tensor) {
    let cols = x.cols();
    for row in x.to_vec().chunks_exact(cols.max(1)) {
        add(sums.host_f32_mut(), row, 1.0);
    }
}

pub(super) fn cast(x: &Tensor, y: &mut Tensor) {
    let values = x.to_vec();
    match y.dtype() {
        DType::F32 => y.host_f32_mut().copy_from_slice(&values),
        _ => y.host_bf16_mut().iter_mut().zip(values).for_each(|(y, x)| *y = bf16::from_f32(x)),
    }
}

pub(super) fn dropout(y: &mut [f32], drop: Dropout) {
    for (i, y) in y.iter_mut().enumerate() {
        *y *= drop.factor(i);
    }
}

pub(super) fn scatter(x: &Tensor, rows: &[u32], y: &mut Tensor) {
    let cols = y.cols();
    for (row, x) in rows.iter().zip(x.host_f32().chunks_exact(cols.max(1))) {
        let place = *row as usize * cols..(*row as usize + 1) * cols;
        match y.dtype() {
            DType::F32 => y.host_f32_mut()[place].copy_from_slice(x),
            _ => y.host_bf16_mut()[place].iter_mut().zip(x).for_each(|(y, x)| *y = bf16::from_f32(*x)),
        }
    }
}

pub(super) fn gather(x: &Tensor, rows: &[u32], y: &mut Tensor) {
    let (cols, x) = (x.cols(), x.to_vec());
    for (row, y) in rows.iter().zip(y.host_f32_mut().chunks_exact_mut(cols.max(1))) {
        y.copy_from_slice(&x[*row as usize * cols..][..cols]);
    }
}
