//! Packed products; the LoRA branch rides in the same product as extra terms of the sum.

use super::super::elementwise;
use super::{Grads, Linear, rank, starts, total_rank};
use crate::cpu::Cpu;
use crate::cpu::blocks::FEW;
use crate::cpu::gemm::{Job, Left, Out, Term, gemm, left};
use crate::cpu::transpose::{ROWS, transpose};
use crate::cpu::words::Mat;
use crate::device::Device;
use crate::dtype::{DType, Precision};
use crate::tensor::Tensor;

/// Columns of a tensor from `start` on, as a matrix whose rows are as far apart as the tensor's.
fn columns(t: &Tensor, start: usize) -> Mat<'_> {
    match t.dtype() {
        DType::F32 => Mat::F32(&t.f32()[start..], t.cols()),
        _ => Mat::Bf16(&t.bf16()[start..], t.cols()),
    }
}

/// All `s A` under each other, `[sum of R, K]`: one panel instead of one for each branch, and the factor is in H and in
/// the gradient of X without a pass of its own.
fn stacked_a(dev: &Device, linears: &[Linear<'_>], total: usize, k: usize) -> Tensor {
    let mut all = dev.empty(total, k);
    let mut rest = all.f32_mut();
    for b in linears.iter().filter_map(|l| l.branch) {
        let (own, after) = rest.split_at_mut(b.a.len());
        own.iter_mut().zip(b.a.f32()).for_each(|(o, a)| *o = b.scale * a);
        rest = after;
    }
    all
}

/// Rows of [`stacked_a`] from `start` on.
fn rows_of_a(all: &Tensor, start: usize) -> Mat<'_> {
    Mat::F32(&all.f32()[start * all.cols()..], all.cols())
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
    let terms = &[Term { a, b, transposed }];
    gemm(cpu, precision, &[Job { accumulate, ..Job::new(&Out::from(out), n, terms) }]);
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
    let total = total_rank(linears);
    let (m, k) = (x.rows(), x.cols());
    let all = stacked_a(dev, linears, total, k);
    let out = &Out::from(h);
    let fill = |a: &Left<'_>, start: usize, r: usize| {
        let terms = &[Term { a, b: rows_of_a(&all, start), transposed: false }];
        gemm(cpu, precision, &[Job { columns: (total, start..start + r), ..Job::new(out, total, terms) }]);
    };
    if !has_dropout(linears) {
        return fill(packed, 0, total);
    }
    for (l, start) in linears.iter().zip(starts(linears)) {
        let Some(b) = l.branch else { continue };
        let dropped = b.dropout.map(|drop| elementwise::dropout(dev, x, drop));
        let own = dropped.as_ref().map(|x| left(cpu, precision, Mat::from(x), m, k, false, 1.0));
        fill(own.as_ref().unwrap_or(packed), start, b.a.rows());
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
        return super::few::forward(dev, cpu, precision, x, linears, outs, accumulate, h);
    }
    let packed = left(cpu, precision, Mat::from(x), m, k, false, 1.0);
    if let Some(h) = h.as_deref_mut() {
        hidden(dev, cpu, precision, x, &packed, linears, h);
    }
    let riding: Vec<_> = linears
        .iter()
        .zip(starts(linears))
        .map(|(l, start)| {
            Some(left(cpu, precision, columns(h.as_deref()?, start), m, l.branch?.a.rows(), false, 1.0))
        })
        .collect();
    let terms: Vec<_> = linears
        .iter()
        .zip(&riding)
        .map(|(l, riding)| {
            let mut terms = vec![Term { a: &packed, b: l.weight.mat(), transposed: false }];
            if let (Some(a), Some(b)) = (riding, l.branch) {
                terms.push(Term { a, b: Mat::from(b.b), transposed: false });
            }
            terms
        })
        .collect();
    let outs: Vec<_> = outs.iter_mut().map(|out| Out::from(&mut **out)).collect();
    let jobs: Vec<_> = linears
        .iter()
        .zip(&outs)
        .zip(&terms)
        .map(|((l, out), terms)| Job {
            accumulate,
            bias: l.bias.map(Tensor::f32),
            ..Job::new(out, l.weight.rows(), terms)
        })
        .collect();
    gemm(cpu, precision, &jobs);
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
    let total = total_rank(linears);
    let needed = if dx.is_some() || total > 0 { dys } else { &[] };
    let packed: Vec<_> =
        needed.iter().map(|dy| left(cpu, precision, Mat::from(*dy), m, dy.cols(), false, 1.0)).collect();
    let g = (total > 0).then(|| through_b(dev, cpu, precision, linears, &packed, m));
    if let Some(dx) = dx {
        input_gradient(dev, cpu, precision, linears, &packed, g.as_ref(), dx, accumulate);
    }
    if let (Some(h), Some(g)) = (h, g) {
        gradients_of_b(dev, cpu, precision, h, linears, &packed, grads);
        drop(packed);
        gradients_of_a(dev, cpu, precision, x, linears, &g, grads);
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

/// `G = dY B` of all branches side by side, as the products read it.
fn through_b(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    linears: &[Linear<'_>],
    dys: &[Left<'_>],
    m: usize,
) -> Tensor {
    let total = total_rank(linears);
    let mut g = dev.uninit(m, total, precision.saved());
    let out = Out::from(&mut g);
    let branches = || {
        let all = linears.iter().zip(dys).zip(starts(linears));
        all.filter_map(|((l, dy), start)| Some((l.branch?, dy, start)))
    };
    let terms: Vec<_> = branches().map(|(b, a, _)| Term { a, b: Mat::from(b.b), transposed: true }).collect();
    let jobs = branches().zip(terms.chunks(1)).map(|((b, _, start), terms)| Job {
        columns: (total, start..start + b.a.rows()),
        ..Job::new(&out, total, terms)
    });
    gemm(cpu, precision, &jobs.collect::<Vec<_>>());
    g
}

/// `dX (+)= sum over linears of dY W + G s A`.
fn input_gradient(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    linears: &[Linear<'_>],
    packed: &[Left<'_>],
    g: Option<&Tensor>,
    dx: &mut Tensor,
    accumulate: bool,
) {
    let [m, k] = dx.shape();
    let all = g.map(|_| stacked_a(dev, linears, total_rank(linears), k));
    let riding: Vec<_> = linears
        .iter()
        .zip(starts(linears))
        .map(|(l, start)| {
            let (b, g, all) = (l.branch?, g?, all.as_ref()?);
            let a = left(cpu, precision, columns(g, start), m, b.a.rows(), false, 1.0);
            Some((a, rows_of_a(all, start)))
        })
        .collect();
    let mut terms = Vec::new();
    for ((l, dy), riding) in linears.iter().zip(packed).zip(&riding) {
        terms.push(Term { a: dy, b: l.weight.mat(), transposed: true });
        // Dropout stands between X and the branch: its gradient cannot ride along.
        if let (Some((a, b)), false) = (riding, l.branch.is_some_and(|b| b.dropout.is_some())) {
            terms.push(Term { a, b: *b, transposed: true });
        }
    }
    gemm(cpu, precision, &[Job { accumulate, ..Job::new(&Out::from(&mut *dx), k, &terms) }]);
    for (l, riding) in linears.iter().zip(&riding) {
        let (Some(drop), Some((a, b))) = (l.branch.and_then(|b| b.dropout), riding) else { continue };
        let mut own = dev.empty(m, k);
        single(cpu, precision, a, *b, true, own.f32_mut(), k, false);
        elementwise::dropout_backward(dev, &mut own, drop);
        elementwise::add(dev, dx, &own, 1.0).expect("both are [M, K]");
    }
}

/// `dA += s Gt drop(X)`.
fn gradients_of_a(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    x: &Tensor,
    linears: &[Linear<'_>],
    g: &Tensor,
    grads: &mut [Grads<'_>],
) {
    let (m, k) = (x.rows(), x.cols());
    let total = total_rank(linears);
    let product = |x: &Tensor, start: usize, r: usize| {
        let gt = left(cpu, precision, columns(g, start), r, m, true, 1.0);
        let mut sum = dev.empty(r, k);
        single(cpu, precision, &gt, Mat::from(x), true, sum.f32_mut(), k, false);
        sum
    };
    // Without dropout X is packed once for the branches together.
    let together = (!has_dropout(linears)).then(|| product(x, 0, total));
    for ((l, grads), start) in linears.iter().zip(grads).zip(starts(linears)) {
        let (Some(b), Some(da)) = (l.branch, grads.a.as_deref_mut()) else { continue };
        let own;
        let sum = match &together {
            Some(all) => &all.f32()[start * k..][..da.len()],
            None => {
                let dropped = b.dropout.map(|drop| elementwise::dropout(dev, x, drop));
                own = product(dropped.as_ref().unwrap_or(x), start, b.a.rows());
                own.f32()
            }
        };
        da.f32_mut().iter_mut().zip(sum).for_each(|(o, v)| *o += b.scale * v);
    }
}

/// `dB += dYt H`.
fn gradients_of_b(
    dev: &Device,
    cpu: &Cpu,
    precision: Precision,
    h: &Tensor,
    linears: &[Linear<'_>],
    dys: &[Left<'_>],
    grads: &mut [Grads<'_>],
) {
    let starts: Vec<_> = starts(linears).collect();
    let mut ranks: Vec<_> = linears.iter().map(rank).filter(|r| *r > 0).collect();
    ranks.sort_unstable();
    ranks.dedup();
    // As [R, N] and then turned: [N, R] would fill only R of the 64 columns of a panel.
    for r in ranks {
        let wanted = |i: &usize| rank(&linears[*i]) == r && grads[*i].b.is_some();
        let same: Vec<_> = (0..linears.len()).filter(wanted).collect();
        let ht = |i: &usize| left(cpu, precision, columns(h, starts[*i]), r, h.rows(), true, 1.0);
        let hts: Vec<_> = same.iter().map(ht).collect();
        let both = same.iter().zip(&hts);
        let terms: Vec<_> = both.map(|(i, a)| Term { a, b: dys[*i].mat(), transposed: true }).collect();
        let mut turned: Vec<_> = same.iter().map(|i| dev.empty(r, dys[*i].k)).collect();
        let outs: Vec<_> = turned.iter_mut().map(Out::from).collect();
        let jobs = same.iter().zip(terms.chunks(1)).zip(&outs);
        gemm(
            cpu,
            precision,
            &jobs.map(|((i, terms), out)| Job::new(out, dys[*i].k, terms)).collect::<Vec<_>>(),
        );
        drop(outs);
        for (i, turned) in same.iter().zip(&turned) {
            let Some(db) = grads[*i].b.as_deref_mut() else { continue };
            let n = turned.cols();
            let mut sums = dev.empty(n, r);
            let rows = bytemuck::cast_slice::<f32, u8>(turned.f32());
            for q in (0..r).step_by(ROWS) {
                let live = (r - q).min(ROWS);
                transpose(cpu.isa(), &rows[4 * q * n..], 4 * n, (live, n), &mut sums.f32_mut()[q..], r);
            }
            elementwise::add(dev, db, &sums, 1.0).expect("both are [N, R]");
        }
    }
}
