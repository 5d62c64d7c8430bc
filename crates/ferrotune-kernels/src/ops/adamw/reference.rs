//! Plain loops.

use super::{AdamW, Factors, Param};
use crate::tensor::Tensor;

pub(super) fn update(constants: AdamW, params: &mut [Param<'_>]) {
    for p in params {
        let f = Factors::new(constants, p.decay, p.lr_factor);
        piece(p.value.host_f32_mut(), p.grad.host_f32(), p.m.host_f32_mut(), p.v.host_f32_mut(), &f);
        if let Some(copy) = &mut p.copy {
            copy.set(p.value.host_f32());
        }
    }
}

pub(super) fn piece(value: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], f: &Factors) {
    for i in 0..grad.len() {
        let g = grad[i] * f.grad_scale;
        m[i] = f.beta1 * m[i] + f.one_minus_beta1 * g;
        v[i] = f.beta2 * v[i] + f.one_minus_beta2 * g * g;
        let denominator = v[i].sqrt() * f.inverse_root + f.eps;
        value[i] = value[i] * f.decay - f.step_size * m[i] / denominator;
    }
}

pub(super) fn sum_of_squares(tensors: &[&Tensor]) -> f64 {
    tensors.iter().flat_map(|t| t.host_f32()).map(|v| (*v as f64).powi(2)).sum()
}
