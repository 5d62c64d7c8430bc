//! What happens to a row of a tile between two products.

use crate::cpu::math::{dot, exp, max, sum, tanh};
use crate::cpu::per_isa;

per_isa! {
    /// Online softmax of one row of a tile: gives the factor for what was summed before, and updates `(max, sum)`.
    pub(in super::super) fn softmax_row(s: &mut [f32], state: &mut (f32, f32)) -> f32 {
        let top = max(s).max(state.0);
        for v in s.iter_mut() {
            *v = exp(*v - top);
        }
        let keep = exp(state.0 - top);
        *state = (top, state.1 * keep + sum(s));
        keep
    }
}

per_isa! {
    pub(in super::super) fn scale_row(row: &mut [f32], by: f32) {
        for v in row {
            *v *= by;
        }
    }
}

per_isa! {
    /// `s = cap tanh(s / cap)`.
    pub(in super::super) fn cap_row(s: &mut [f32], cap: f32) {
        for s in s {
            *s = cap * tanh(*s / cap);
        }
    }
}

per_isa! {
    /// `ds *= 1 - (s / cap)^2` for capped scores `s`.
    pub(super) fn cap_slope_row(s: &[f32], ds: &mut [f32], cap: f32) {
        for (s, ds) in s.iter().zip(ds) {
            let t = *s / cap;
            *ds *= 1.0 - t * t;
        }
    }
}

per_isa! {
    /// `p = exp(s - lse)` in place of `s`, `ds = p (dp - delta)` in place of `dp`.
    pub(super) fn gradient_row(s: &mut [f32], dp: &mut [f32], lse: f32, delta: f32) {
        for (s, dp) in s.iter_mut().zip(dp) {
            let p = exp(*s - lse);
            *s = p;
            *dp = p * (*dp - delta);
        }
    }
}

per_isa! {
    pub(super) fn dot_row(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
}
