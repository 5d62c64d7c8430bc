//! Plain loops in the order of the formulas; sums in f64. `H` is computed again from X in the backward.

use super::{Branch, Grads, Linear, Matrix, starts, total_rank};
use crate::cpu::Isa;
use crate::tensor::Tensor;

fn weight_values(w: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; w.rows() * w.cols()];
    for (n, row) in out.chunks_exact_mut(w.cols()).enumerate() {
        w.mat().read(Isa::Portable, n, 0, row);
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum()
}

/// The branch's input: X after dropout.
fn branch_input(x: &[f32], branch: &Branch<'_>) -> Vec<f32> {
    let mut x = x.to_vec();
    if let Some(drop) = branch.dropout {
        x.iter_mut().enumerate().for_each(|(i, v)| *v *= drop.factor(i));
    }
    x
}

/// `H [M, R]` of one branch.
fn hidden(x: &[f32], branch: &Branch<'_>) -> Vec<f32> {
    let k = branch.a.cols();
    let x = branch_input(x, branch);
    x.chunks_exact(k).flat_map(|x| branch.a.host_f32().chunks_exact(k).map(|a| dot(x, a) as f32)).collect()
}

pub(super) fn forward(
    x: &Tensor,
    linears: &[Linear<'_>],
    outs: &mut [&mut Tensor],
    accumulate: bool,
    mut h_all: Option<&mut Tensor>,
) {
    let total = total_rank(linears);
    let xs = x.to_vec();
    for ((l, y), start) in linears.iter().zip(outs).zip(starts(linears)) {
        let (n, k) = (l.weight.rows(), l.weight.cols());
        let w = weight_values(l.weight);
        let h = l.branch.as_ref().map(|b| hidden(&xs, b));
        let mut values = y.to_vec();
        for m in 0..x.rows() {
            for j in 0..n {
                let mut sum = dot(&xs[m * k..][..k], &w[j * k..][..k]);
                if let (Some(b), Some(h)) = (&l.branch, &h) {
                    let r = b.a.rows();
                    sum += b.scale as f64 * dot(&h[m * r..][..r], &b.b.host_f32()[j * r..][..r]);
                }
                sum += l.bias.map_or(0.0, |b| b.host_f32()[j] as f64);
                let old = if accumulate { values[m * n + j] as f64 } else { 0.0 };
                values[m * n + j] = (old + sum) as f32;
            }
        }
        y.set(&values);
        if let (Some(all), Some(h), Some(b)) = (h_all.as_deref_mut(), &h, &l.branch) {
            let r = b.a.rows();
            let mut values = all.to_vec();
            for (row, own) in values.chunks_exact_mut(total).zip(h.chunks_exact(r)) {
                row[start..start + r].iter_mut().zip(own).for_each(|(o, h)| *o = b.scale * h);
            }
            all.set(&values);
        }
    }
}

pub(super) fn backward(
    x: &Tensor,
    linears: &[Linear<'_>],
    dys: &[&Tensor],
    dx: Option<&mut Tensor>,
    accumulate: bool,
    grads: &mut [Grads<'_>],
) {
    let xs = x.to_vec();
    let mut dx_sum = vec![0.0f64; xs.len()];
    for ((l, dy), grads) in linears.iter().zip(dys).zip(grads) {
        let (n, k) = (l.weight.rows(), l.weight.cols());
        let (w, dy) = (weight_values(l.weight), dy.to_vec());
        for m in 0..x.rows() {
            for j in 0..n {
                let g = dy[m * n + j] as f64;
                for i in 0..k {
                    dx_sum[m * k + i] += g * w[j * k + i] as f64;
                }
                if let Some(dw) = grads.weight.as_deref_mut() {
                    for i in 0..k {
                        dw.host_f32_mut()[j * k + i] += (g * xs[m * k + i] as f64) as f32;
                    }
                }
                if let Some(db) = grads.bias.as_deref_mut() {
                    db.host_f32_mut()[j] += g as f32;
                }
            }
        }
        let Some(b) = &l.branch else { continue };
        let (r, s) = (b.a.rows(), b.scale as f64);
        let (input, h) = (branch_input(&xs, b), hidden(&xs, b));
        for m in 0..x.rows() {
            for q in 0..r {
                let g =
                    s * (0..n).map(|j| dy[m * n + j] as f64 * b.b.host_f32()[j * r + q] as f64).sum::<f64>();
                for i in 0..k {
                    let factor = b.dropout.map_or(1.0, |d| d.factor(m * k + i)) as f64;
                    dx_sum[m * k + i] += factor * g * b.a.host_f32()[q * k + i] as f64;
                    if let Some(da) = grads.a.as_deref_mut() {
                        da.host_f32_mut()[q * k + i] += (g * input[m * k + i] as f64) as f32;
                    }
                }
                if let Some(db) = grads.b.as_deref_mut() {
                    for j in 0..n {
                        db.host_f32_mut()[j * r + q] +=
                            (s * dy[m * n + j] as f64 * h[m * r + q] as f64) as f32;
                    }
                }
            }
        }
    }
    if let Some(dx) = dx {
        for (o, v) in dx.host_f32_mut().iter_mut().zip(dx_sum) {
            *o = ((if accumulate { *o as f64 } else { 0.0 }) + v) as f32;
        }
    }
}
