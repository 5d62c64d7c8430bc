//! Packed products; the LoRA branch rides in the same product as extra terms of the sum.

use super::super::elementwise;
use super::{Grads, Linear, ranks};
use crate::cpu::Cpu;
use crate::cpu::blocks::FEW;
use crate::cpu::gemm::{Job, Left, Out, Term, gemm, left};
use crate::cpu::transpose::{ROWS, transpose};
use crate::cpu::words::Mat;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::tensor::Tensor;

/// `H`'s columns from `start` on, as a matrix whose rows are `total` apart.
fn columns(h: &Tensor, start: usize) -> Mat<'_> {
    match h.dtype() {
        DType::F32 => Mat::F32(&h.f32()[start..], h.cols()),
        _ => Mat::Bf16(&h.bf16()[start..], h.cols()),
    }
}

/// All `A`s under each other, `[sum of R, K]`: one panel instead of one for each branch.
fn stacked_a(dev: &Device, linears: &[Linear<'_>], total: usize, k: usize) -> Tensor {
    let mut all = dev.empty(total, k);
    let mut at = 0;
    for b in linears.iter().filter_map(|l| l.branch) {
        all.f32_mut()[at..at + b.a.len()].copy_from_slice(b.a.f32());
        at += b.a.len();
    }
    all
}

fn single(
    cpu: &Cpu,
    precision: Precision,
    a: &Left<'_>,
    b: Mat<'_>,
    transposed: bool,
    out: &mut [f32],
    n: usize,
    accumulate: bool,
) {
    gemm(
        cpu,
        precision,
        vec![Job { out: Out::from(out), n, terms: vec![Term { a, b, transposed }], accumulate, bias: None }],
    );
}

fn has_dropout(linears: &[Linear<'_>]) -> bool {
    linears.iter().any(|l| l.branch.is_some_and(|b| b.dropout.is_some()))
}

/// Fills `H`.
fn hidden(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    x: &Tensor,
    packed: &Left<'_>,
    linears: &[Linear<'_>],
    h: &mut Tensor,
) {
    let (total, starts) = ranks(linears);
    let (m, k) = (x.rows(), x.cols());
    if !has_dropout(linears) {
        let a = stacked_a(dev, linears, total, k);
        single(cpu, precision, packed, Mat::from(&a), false, h.f32_mut(), total, false);
        return;
    }
    for (l, start) in linears.iter().zip(starts) {
        let Some(b) = l.branch else { continue };
        let r = b.a.rows();
        let mut own = dev.empty(m, r);
        match b.dropout {
            Some(drop) => {
                let dropped = elementwise::dropout(dev, x, drop);
                let dropped = left(cpu, precision, Mat::from(&dropped), m, k, false, 1.0);
                single(cpu, precision, &dropped, Mat::from(b.a), false, own.f32_mut(), r, false);
            }
            None => single(cpu, precision, packed, Mat::from(b.a), false, own.f32_mut(), r, false),
        }
        for (all, own) in h.f32_mut().chunks_exact_mut(total).zip(own.f32().chunks_exact(r)) {
            all[start..start + r].copy_from_slice(own);
        }
    }
}

pub(super) fn forward(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    x: &Tensor,
    linears: &[Linear<'_>],
    outs: &mut [&mut Tensor],
    accumulate: bool,
    mut h: Option<&mut Tensor>,
) {
    let (m, k) = (x.rows(), x.cols());
    if m <= FEW && !has_dropout(linears) {
        return super::few::forward(dev, cpu, x, linears, outs, accumulate, h);
    }
    let packed = left(cpu, precision, Mat::from(x), m, k, false, 1.0);
    if let Some(h) = h.as_deref_mut() {
        hidden(dev, cpu, precision, x, &packed, linears, h);
    }
    let starts = ranks(linears).1;
    let scaled: Vec<Option<Left<'_>>> = linears
        .iter()
        .zip(starts)
        .map(|(l, start)| {
            let (b, h) = (l.branch?, h.as_deref()?);
            Some(left(cpu, precision, columns(h, start), m, b.a.rows(), false, b.scale))
        })
        .collect();
    let jobs = linears
        .iter()
        .zip(outs)
        .zip(&scaled)
        .map(|((l, out), scaled)| {
            let mut terms = vec![Term { a: &packed, b: l.weight.mat(), transposed: false }];
            if let (Some(a), Some(b)) = (scaled, l.branch) {
                terms.push(Term { a, b: Mat::from(b.b), transposed: false });
            }
            Job {
                out: Out::from(&mut **out),
                n: l.weight.rows(),
                terms,
                accumulate,
                bias: l.bias.map(Tensor::f32),
            }
        })
        .collect();
    gemm(cpu, precision, jobs);
}

pub(super) fn backward(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    x: &Tensor,
    h: Option<&Tensor>,
    linears: &[Linear<'_>],
    dys: &[&Tensor],
    dx: Option<&mut Tensor>,
    accumulate: bool,
    grads: &mut [Grads<'_>],
) {
    let (m, k) = (x.rows(), x.cols());
    let (total, starts) = ranks(linears);
    let need_dy = dx.is_some() || total > 0;
    let packed: Vec<Left<'_>> = if need_dy {
        dys.iter().map(|dy| left(cpu, precision, Mat::from(*dy), m, dy.cols(), false, 1.0)).collect()
    } else {
        Vec::new()
    };
    // G = s dY B, kept for dX and dA.
    let g: Vec<Option<Tensor>> = linears
        .iter()
        .enumerate()
        .map(|(i, l)| {
            let b = l.branch?;
            let mut g = dev.empty(m, b.a.rows());
            single(cpu, precision, &packed[i], Mat::from(b.b), true, g.f32_mut(), b.a.rows(), false);
            g.f32_mut().iter_mut().for_each(|v| *v *= b.scale);
            Some(g)
        })
        .collect();
    if let Some(dx) = dx {
        input_gradient(dev, cpu, precision, linears, &packed, &g, dx, accumulate);
    }
    drop(packed);

    if let Some(h) = h {
        branch_gradients(dev, cpu, precision, x, h, linears, dys, &g, (total, &starts), grads);
    }
    for ((l, dy), grads) in linears.iter().zip(dys).zip(grads) {
        let n = l.weight.rows();
        if let Some(dw) = grads.weight.as_deref_mut() {
            let dyt = left(cpu, precision, Mat::from(*dy), n, m, true, 1.0);
            single(cpu, precision, &dyt, Mat::from(x), true, dw.f32_mut(), k, true);
        }
        if let Some(db) = grads.bias.as_deref_mut() {
            elementwise::add_columns(dev, db, dy).expect("both have N columns");
        }
    }
}

/// `dX (+)= sum over linears of dY W + G A`.
fn input_gradient(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    linears: &[Linear<'_>],
    packed: &[Left<'_>],
    g: &[Option<Tensor>],
    dx: &mut Tensor,
    accumulate: bool,
) {
    let [m, k] = dx.shape();
    fn pack_g<'g>(cpu: &Cpu, precision: Precision, g: &'g Tensor) -> Left<'g> {
        left(cpu, precision, Mat::from(g), g.rows(), g.cols(), false, 1.0)
    }
    let riding: Vec<Option<Left<'_>>> = linears
        .iter()
        .zip(g)
        .map(|(l, g)| {
            g.as_ref()
                .filter(|_| l.branch.is_some_and(|b| b.dropout.is_none()))
                .map(|g| pack_g(cpu, precision, g))
        })
        .collect();
    let mut terms = Vec::new();
    for ((l, dy), g) in linears.iter().zip(packed).zip(&riding) {
        terms.push(Term { a: dy, b: l.weight.mat(), transposed: true });
        if let (Some(a), Some(b)) = (g, l.branch) {
            terms.push(Term { a, b: Mat::from(b.a), transposed: true });
        }
    }
    gemm(cpu, precision, vec![Job { out: Out::from(&mut *dx), n: k, terms, accumulate, bias: None }]);
    // Dropout stands between X and the branch, so its gradient cannot ride along.
    for (l, g) in linears.iter().zip(g) {
        let (Some(b), Some(g)) = (l.branch, g) else { continue };
        let Some(drop) = b.dropout else { continue };
        let mut own = dev.empty(m, k);
        single(cpu, precision, &pack_g(cpu, precision, g), Mat::from(b.a), true, own.f32_mut(), k, false);
        elementwise::dropout_backward(dev, &mut own, drop);
        elementwise::add(dev, dx, &own, 1.0).expect("both are [M, K]");
    }
}

/// `dA += Gt drop(X)`, `dB += s dYt H`.
fn branch_gradients(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    x: &Tensor,
    h: &Tensor,
    linears: &[Linear<'_>],
    dys: &[&Tensor],
    g: &[Option<Tensor>],
    (total, starts): (usize, &[usize]),
    grads: &mut [Grads<'_>],
) {
    let (m, k) = (x.rows(), x.cols());
    if has_dropout(linears) {
        for ((l, g), grads) in linears.iter().zip(g).zip(grads.iter_mut()) {
            let (Some(b), Some(g), Some(da)) = (l.branch, g, grads.a.as_deref_mut()) else { continue };
            let gt = left(cpu, precision, Mat::from(g), g.cols(), m, true, 1.0);
            let dropped = b.dropout.map(|d| elementwise::dropout(dev, x, d));
            let input = dropped.as_ref().unwrap_or(x);
            single(cpu, precision, &gt, Mat::from(input), true, da.f32_mut(), k, true);
        }
    } else if grads.iter().any(|g| g.a.is_some()) {
        // All G side by side: X is packed once for the branches together.
        let mut all = dev.empty(m, total);
        for (row, all) in all.f32_mut().chunks_exact_mut(total).enumerate() {
            for (g, start) in g.iter().zip(starts) {
                let Some(g) = g else { continue };
                all[*start..start + g.cols()].copy_from_slice(&g.f32()[row * g.cols()..][..g.cols()]);
            }
        }
        let gt = left(cpu, precision, Mat::from(&all), total, m, true, 1.0);
        let mut sum = dev.empty(total, k);
        single(cpu, precision, &gt, Mat::from(x), true, sum.f32_mut(), k, false);
        for (grads, start) in grads.iter_mut().zip(starts) {
            let Some(da) = grads.a.as_deref_mut() else { continue };
            let own = &sum.f32()[start * k..][..da.len()];
            da.f32_mut().iter_mut().zip(own).for_each(|(o, v)| *o += v);
        }
    }
    for (i, l) in linears.iter().enumerate() {
        let (Some(b), Some(db)) = (l.branch, grads[i].b.as_deref_mut()) else { continue };
        let (n, r) = (l.weight.rows(), b.a.rows());
        // As [R, N] and then turned: [N, R] would fill only R of the 64 columns of a panel.
        let ht = left(cpu, precision, columns(h, starts[i]), r, m, true, b.scale);
        let mut turned = dev.empty(r, n);
        single(cpu, precision, &ht, Mat::from(dys[i]), true, turned.f32_mut(), n, false);
        let mut sums = dev.empty(n, r);
        let rows = bytemuck::cast_slice::<f32, u8>(turned.f32());
        for q in (0..r).step_by(ROWS) {
            let live = (r - q).min(ROWS);
            transpose(cpu.isa(), &rows[4 * q * n..], 4 * n, (live, n), &mut sums.f32_mut()[q..], r);
        }
        elementwise::add(dev, db, &sums, 1.0).expect("both are [N, R]");
    }
}
