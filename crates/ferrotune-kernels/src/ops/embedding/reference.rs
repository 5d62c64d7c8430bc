//! Plain loops.

use crate::cpu::Isa;
use crate::ops::linear::Matrix;
use crate::tensor::Tensor;

pub(super) fn forward(table: Matrix<'_>, tokens: &[u32], scale: f32, y: &mut [f32]) {
    for (y, t) in y.chunks_exact_mut(table.cols()).zip(tokens) {
        table.mat().read(Isa::Portable, *t as usize, 0, y);
        y.iter_mut().for_each(|v| *v *= scale);
    }
}

pub(super) fn backward(dy: &[f32], tokens: &[u32], scale: f32, dtable: &mut Tensor) {
    let d = dtable.cols();
    for (dy, t) in dy.chunks_exact(d).zip(tokens) {
        let row = &mut dtable.host_f32_mut()[*t as usize * d..][..d];
        row.iter_mut().zip(dy).for_each(|(o, v)| *o += v * scale);
    }
}
