//! Plain loops.

use half::bf16;

use super::Dropout;
use crate::dtype::DType;
use crate::tensor::Tensor;

pub(super) fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

pub(super) fn subtract(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= x;
    }
}

pub(super) fn cast(x: &Tensor, y: &mut Tensor) {
    let values = x.to_vec();
    match y.dtype() {
        DType::F32 => y.f32_mut().copy_from_slice(&values),
        _ => y.bf16_mut().iter_mut().zip(values).for_each(|(y, x)| *y = bf16::from_f32(x)),
    }
}

pub(super) fn dropout(y: &mut [f32], drop: Dropout) {
    for (i, y) in y.iter_mut().enumerate() {
        *y *= drop.factor(i);
    }
}
