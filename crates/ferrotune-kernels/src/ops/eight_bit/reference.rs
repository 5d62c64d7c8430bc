//! Plain loops.

use half::bf16;

use super::{BLOCK, scale};
use crate::tensor::Tensor;

pub(super) fn pack(x: &Tensor, codes: &mut [i8], scales: &mut [bf16]) {
    let x = x.to_vec();
    for ((x, codes), out) in x.chunks(BLOCK).zip(codes.chunks_mut(BLOCK)).zip(scales) {
        let (step, inverse) = scale(x.iter().fold(0.0, |m, v| f32::max(m, v.abs())));
        *out = bf16::from_f32(step);
        for (code, v) in codes.iter_mut().zip(x) {
            *code = (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
        }
    }
}

pub(super) fn unpack(codes: &[i8], scales: &[bf16], x: &mut Tensor) {
    let blocks = codes.chunks(BLOCK).zip(scales);
    let values: Vec<f32> =
        blocks.flat_map(|(codes, scale)| codes.iter().map(|c| *c as f32 * scale.to_f32())).collect();
    x.set(&values);
}
