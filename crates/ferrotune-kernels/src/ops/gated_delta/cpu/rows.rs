//! What happens to rows and triangles of a chunk between two products. Rows of triangles lie [`CHUNK`] apart.

use super::CHUNK;
use crate::cpu::math::{dot, exp};
use crate::cpu::per_isa;

/// Tokens that are solved one after the other; what they give later ones is a product.
pub(super) const BLOCK: usize = 16;

/// Columns of a right side that are solved at a time.
const STRIP: usize = 64;

per_isa! {
    /// `out[i] = e^(x[i] + y)`, of exponents that were added up in f64.
    pub(super) fn decays(x: &[f64], sign: f64, y: f64, out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = exp((sign * x + y) as f32);
        }
    }
}

per_isa! {
    /// `out = by (a . b)` up to the diagonal, or below it; zeros behind.
    pub(super) fn lower(a: &[f32], b: &[f32], by: f32, diagonal: bool, n: usize, out: &mut [f32]) {
        for i in 0..n {
            let at = i * CHUNK;
            let (out, rest) = out[at..at + n].split_at_mut(i + diagonal as usize);
            for ((o, a), b) in out.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                *o = by * a * b;
            }
            rest.fill(0.0);
        }
    }
}

per_isa! {
    /// Adds a triangle's values below the diagonal to `sums` of their rows, and takes them from those of their columns.
    pub(super) fn row_less_column(a: &[f32], b: &[f32], n: usize, columns: &mut [f32], sums: &mut [f32]) {
        let columns = &mut columns[..n];
        columns.fill(0.0);
        for i in 0..n {
            let (a, b) = (&a[i * CHUNK..][..i], &b[i * CHUNK..][..i]);
            sums[i] += dot(a, b);
            for ((sum, a), b) in columns.iter_mut().zip(a).zip(b) {
                *sum += a * b;
            }
        }
        for (sum, column) in sums.iter_mut().zip(columns) {
            *sum -= *column;
        }
    }
}

per_isa! {
    pub(super) fn scale(x: &mut [f32], by: f32) {
        for x in x {
            *x *= by;
        }
    }
}

per_isa! {
    /// `out = by x`, row by row.
    pub(super) fn scaled_rows(x: &[f32], by: &[f32], sign: f32, width: usize, out: &mut [f32]) {
        for ((x, by), out) in x.chunks_exact(width).zip(by).zip(out.chunks_exact_mut(width)) {
            let by = sign * by;
            for (o, x) in out.iter_mut().zip(x) {
                *o = by * x;
            }
        }
    }
}

per_isa! {
    /// `out += by x`, row by row.
    pub(super) fn add_scaled_rows(x: &[f32], by: &[f32], sign: f32, width: usize, out: &mut [f32]) {
        for ((x, by), out) in x.chunks_exact(width).zip(by).zip(out.chunks_exact_mut(width)) {
            let by = sign * by;
            for (o, x) in out.iter_mut().zip(x) {
                *o += by * x;
            }
        }
    }
}

per_isa! {
    /// `out[i] += sign (x_i . y_i)`.
    pub(super) fn add_dots(x: &[f32], y: &[f32], sign: f32, width: usize, out: &mut [f32]) {
        for ((x, y), out) in x.chunks_exact(width).zip(y.chunks_exact(width)).zip(out) {
            *out += sign * dot(x, y);
        }
    }
}

per_isa! {
    pub(super) fn inner(x: &[f32], y: &[f32]) -> f32 {
        dot(x, y)
    }
}

per_isa! {
    pub(super) fn add(x: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o += x;
        }
    }
}

per_isa! {
    /// Solves `x_i += sum of n_ij y_j` with `y_j = beta_j x_j` over the earlier tokens `j` of a block, in place; `reverse`: over
    /// the later ones, with `n_ji`.
    pub(super) fn substitute(
        n: &[f32],
        beta: &[f32],
        reverse: bool,
        width: usize,
        x: &mut [f32],
        y: &mut [f32],
    ) {
        let count = beta.len();
        let place = |i: usize| if reverse { count - 1 - i } else { i };
        let mut factors = [[0.0f32; BLOCK]; BLOCK];
        for (i, factors) in factors.iter_mut().enumerate().take(count) {
            for (j, factor) in factors.iter_mut().enumerate().take(i) {
                *factor = if reverse { n[place(j) * CHUNK + place(i)] } else { n[i * CHUNK + j] };
            }
        }
        for first in (0..width).step_by(STRIP) {
            let live = (width - first).min(STRIP);
            let mut done = [[0.0f32; STRIP]; BLOCK];
            for i in 0..count {
                let at = place(i) * width + first;
                // Of a known length, so that the sums stay in registers.
                let mut sum = [0.0f32; STRIP];
                match x[at..].first_chunk::<STRIP>().filter(|_| live == STRIP) {
                    Some(x) => sum = *x,
                    None => sum[..live].copy_from_slice(&x[at..][..live]),
                }
                for (factor, done) in factors[i][..i].iter().zip(&done) {
                    for l in 0..STRIP {
                        sum[l] += factor * done[l];
                    }
                }
                let beta = beta[place(i)];
                for l in 0..STRIP {
                    done[i][l] = beta * sum[l];
                }
                for (to, from) in [(&mut *x, &sum), (&mut *y, &done[i])] {
                    match to[at..].first_chunk_mut::<STRIP>().filter(|_| live == STRIP) {
                        Some(to) => *to = *from,
                        None => to[at..][..live].copy_from_slice(&from[..live]),
                    }
                }
            }
        }
    }
}
