//! Packed products; the LoRA branch rides in the same product as extra terms of the sum.

use super::super::elementwise;
use super::{Grads, Linear, On, Passed, rank, starts, total_rank};
use crate::cpu::blocks::FEW;
use crate::cpu::gemm::{Job, Left, Out, Term, gemm, left};
use crate::cpu::transpose::{ROWS, transpose};
use crate::cpu::words::Mat;
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Columns of a tensor from `start` on, as a matrix whose rows are as far apart as the tensor's.
fn columns(t: &Tensor, start: usize) -> Mat<'_> {
    match t.dtype() {
        DType::F32 => Mat::F32(&t.host_f32()[start..], t.cols()),
        _ => Mat::Bf16(&t.host_bf16()[start..], t.cols()),
    }
}

/// All `s A` under each other, `[sum of R, K]`: one panel instead of one for each branch, and the factor is in H and in
/// the gradient of X without a pass of its own.
fn stacked_a(dev: &Device, linears: &[Linear<'_>], total: usize, k: usize) -> Tensor {
    let mut all = dev.empty(total, k);
    let mut rest = all.host_f32_mut();
    for b in linears.iter().filter_map(|l| l.branch) {
        let (own, after) = rest.split_at_mut(b.a.len());
        own.iter_mut().zip(b.a.host_f32()).for_each(|(o, a)| *o = b.scale * a);
        rest = after;
    }
    all
}

/// Rows of [`stacked_a`] from `start` on.
fn rows_of_a(all: &Tensor, start: usize) -> Mat<'_> {
    Mat::F32(&all.host_f32()[start * all.cols()..], all.cols())
}

impl On<'_> {
    /// The rows of a matrix `[M, K]` as a left operand.
    fn rows<'m>(self, mat: impl Into<Mat<'m>>, m: usize, k: usize) -> Left<'m> {
        left(self.cpu, self.precision, mat.into(), m, k, false)
    }

    /// The columns of a matrix `[K, M]` as a left operand.
    fn columns<'m>(self, mat: impl Into<Mat<'m>>, m: usize, k: usize) -> Left<'m> {
        left(self.cpu, self.precision, mat.into(), m, k, true)
    }

    fn gemm(self, jobs: &[Job<'_>]) {
        gemm(self.cpu, self.precision, jobs);
    }

    /// One product, whose right operand is stored `[K, N]`.
    fn product(self, a: &Left<'_>, b: Mat<'_>, out: &mut Tensor, accumulate: bool) {
        let n = out.cols();
        let terms = &[Term { a, b, transposed: true }];
        self.gemm(&[Job { accumulate, ..Job::new(&Out::from(out), n, terms) }]);
    }
}

fn has_dropout(linears: &[Linear<'_>]) -> bool {
    linears.iter().any(|l| l.branch.is_some_and(|b| b.dropout.is_some()))
}

/// Fills `H`.
fn hidden(on: On<'_>, x: &Tensor, packed: &Left<'_>, linears: &[Linear<'_>], h: &mut Tensor) {
    let total = total_rank(linears);
    let (m, k) = (x.rows(), x.cols());
    let all = stacked_a(on.dev, linears, total, k);
    let out = &Out::from(h);
    let fill = |a: &Left<'_>, start: usize, r: usize| {
        let terms = &[Term { a, b: rows_of_a(&all, start), transposed: false }];
        on.gemm(&[Job { columns: (total, start..start + r), ..Job::new(out, total, terms) }]);
    };
    if !has_dropout(linears) {
        return fill(packed, 0, total);
    }
    for (l, start) in linears.iter().zip(starts(linears)) {
        let Some(b) = l.branch else { continue };
        let dropped = b.dropout.map(|drop| elementwise::dropout(on.dev, x, drop));
        let own = dropped.as_ref().map(|x| on.rows(x, m, k));
        fill(own.as_ref().unwrap_or(packed), start, b.a.rows());
    }
}

pub(super) fn forward(
    on: On<'_>,
    x: &Tensor,
    linears: &[Linear<'_>],
    outs: &mut [&mut Tensor],
    accumulate: bool,
    mut h: Option<&mut Tensor>,
) {
    let (m, k) = (x.rows(), x.cols());
    if m <= FEW && !has_dropout(linears) {
        return super::few::forward(on, x, linears, outs, accumulate, h);
    }
    let packed = on.rows(x, m, k);
    if let Some(h) = h.as_deref_mut() {
        hidden(on, x, &packed, linears, h);
    }
    let riding = |(l, start): (&Linear<'_>, usize)| {
        Some(on.rows(columns(h.as_deref()?, start), m, l.branch?.a.rows()))
    };
    let riding: Vec<_> = linears.iter().zip(starts(linears)).map(riding).collect();
    let mut terms = Vec::with_capacity(linears.len());
    for (l, riding) in linears.iter().zip(&riding) {
        let weight = Term { a: &packed, b: l.weight.mat(), transposed: false };
        let branch = riding.as_ref().zip(l.branch);
        let branch = branch.map(|(a, b)| Term { a, b: Mat::from(b.b), transposed: false });
        terms.push([weight].into_iter().chain(branch).collect::<Vec<_>>());
    }
    let outs: Vec<_> = outs.iter_mut().map(|out| Out::from(&mut **out)).collect();
    let jobs: Vec<_> = linears
        .iter()
        .zip(&outs)
        .zip(&terms)
        .map(|((l, out), terms)| Job {
            accumulate,
            bias: l.bias.map(Tensor::host_f32),
            ..Job::new(out, l.weight.rows(), terms)
        })
        .collect();
    on.gemm(&jobs);
}

pub(super) fn backward(
    on: On<'_>,
    passed: Passed<'_>,
    dx: Option<&mut Tensor>,
    accumulate: bool,
    grads: &mut [Grads<'_>],
) {
    let Passed { x, h, linears, dys } = passed;
    let m = x.rows();
    let total = total_rank(linears);
    let needed = if dx.is_some() || total > 0 { dys } else { &[] };
    let packed: Vec<_> = needed.iter().map(|dy| on.rows(*dy, m, dy.cols())).collect();
    let g = (total > 0).then(|| through_b(on, linears, &packed, m));
    if let Some(dx) = dx {
        input_gradient(on, linears, &packed, g.as_ref(), dx, accumulate);
    }
    if let (Some(h), Some(g)) = (h, g) {
        gradients_of_b(on, h, linears, &packed, grads);
        drop(packed);
        gradients_of_a(on, x, linears, &g, grads);
    }
    for ((l, dy), grads) in linears.iter().zip(dys).zip(grads) {
        if let Some(dw) = grads.weight.as_deref_mut() {
            let dyt = on.columns(*dy, l.weight.rows(), m);
            on.product(&dyt, Mat::from(x), dw, true);
        }
        if let Some(db) = grads.bias.as_deref_mut() {
            elementwise::add_columns(on.dev, db, dy).expect("both have N columns");
        }
    }
}

/// `G = dY B` of all branches side by side, as the products read it.
fn through_b(on: On<'_>, linears: &[Linear<'_>], dys: &[Left<'_>], m: usize) -> Tensor {
    let total = total_rank(linears);
    let mut g = on.dev.uninit(m, total, on.precision.saved());
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
    on.gemm(&jobs.collect::<Vec<_>>());
    g
}

/// `dX (+)= sum over linears of dY W + G s A`.
fn input_gradient(
    on: On<'_>,
    linears: &[Linear<'_>],
    packed: &[Left<'_>],
    g: Option<&Tensor>,
    dx: &mut Tensor,
    accumulate: bool,
) {
    let [m, k] = dx.shape();
    let all = g.map(|_| stacked_a(on.dev, linears, total_rank(linears), k));
    let riding = |(l, start): (&Linear<'_>, usize)| {
        let (b, g, all) = (l.branch?, g?, all.as_ref()?);
        Some((on.rows(columns(g, start), m, b.a.rows()), rows_of_a(all, start)))
    };
    let riding: Vec<_> = linears.iter().zip(starts(linears)).map(riding).collect();
    let mut terms = Vec::new();
    for ((l, dy), riding) in linears.iter().zip(packed).zip(&riding) {
        terms.push(Term { a: dy, b: l.weight.mat(), transposed: true });
        // Dropout stands between X and the branch: its gradient cannot ride along.
        if let (Some((a, b)), false) = (riding, l.branch.is_some_and(|b| b.dropout.is_some())) {
            terms.push(Term { a, b: *b, transposed: true });
        }
    }
    on.gemm(&[Job { accumulate, ..Job::new(&Out::from(&mut *dx), k, &terms) }]);
    for (l, riding) in linears.iter().zip(&riding) {
        let (Some(drop), Some((a, b))) = (l.branch.and_then(|b| b.dropout), riding) else { continue };
        let mut own = on.dev.empty(m, k);
        on.product(a, *b, &mut own, false);
        elementwise::dropout_backward(on.dev, &mut own, drop);
        elementwise::add(on.dev, dx, &own, 1.0).expect("both are [M, K]");
    }
}

/// `dA += s Gt drop(X)`.
fn gradients_of_a(on: On<'_>, x: &Tensor, linears: &[Linear<'_>], g: &Tensor, grads: &mut [Grads<'_>]) {
    let (m, k) = (x.rows(), x.cols());
    let total = total_rank(linears);
    let product = |x: &Tensor, start: usize, r: usize| {
        let gt = on.columns(columns(g, start), r, m);
        let mut sum = on.dev.empty(r, k);
        on.product(&gt, Mat::from(x), &mut sum, false);
        sum
    };
    // Without dropout X is packed once for the branches together.
    let together = (!has_dropout(linears)).then(|| product(x, 0, total));
    for ((l, grads), start) in linears.iter().zip(grads).zip(starts(linears)) {
        let (Some(b), Some(da)) = (l.branch, grads.a.as_deref_mut()) else { continue };
        let own;
        let sum = match &together {
            Some(all) => &all.host_f32()[start * k..][..da.len()],
            None => {
                let dropped = b.dropout.map(|drop| elementwise::dropout(on.dev, x, drop));
                own = product(dropped.as_ref().unwrap_or(x), start, b.a.rows());
                own.host_f32()
            }
        };
        da.host_f32_mut().iter_mut().zip(sum).for_each(|(o, v)| *o += b.scale * v);
    }
}

/// `dB += dYt H`.
fn gradients_of_b(on: On<'_>, h: &Tensor, linears: &[Linear<'_>], dys: &[Left<'_>], grads: &mut [Grads<'_>]) {
    let starts: Vec<_> = starts(linears).collect();
    let mut ranks: Vec<_> = linears.iter().map(rank).filter(|r| *r > 0).collect();
    ranks.sort_unstable();
    ranks.dedup();
    // As [R, N] and then turned: [N, R] would fill only R of the 64 columns of a panel.
    for r in ranks {
        let wanted = |i: &usize| rank(&linears[*i]) == r && grads[*i].b.is_some();
        let same: Vec<_> = (0..linears.len()).filter(wanted).collect();
        let ht = |i: &usize| on.columns(columns(h, starts[*i]), r, h.rows());
        let hts: Vec<_> = same.iter().map(ht).collect();
        let both = same.iter().zip(&hts);
        let terms: Vec<_> = both.map(|(i, a)| Term { a, b: dys[*i].mat(), transposed: true }).collect();
        let mut turned: Vec<_> = same.iter().map(|i| on.dev.empty(r, dys[*i].k)).collect();
        let outs: Vec<_> = turned.iter_mut().map(Out::from).collect();
        let jobs = same.iter().zip(terms.chunks(1)).zip(&outs);
        let jobs: Vec<_> = jobs.map(|((i, terms), out)| Job::new(out, dys[*i].k, terms)).collect();
        on.gemm(&jobs);
        drop(outs);
        for (i, turned) in same.iter().zip(&turned) {
            let Some(db) = grads[*i].b.as_deref_mut() else { continue };
            let n = turned.cols();
            let mut sums = on.dev.empty(n, r);
            let rows = bytemuck::cast_slice::<f32, u8>(turned.host_f32());
            for q in (0..r).step_by(ROWS) {
                let live = (r - q).min(ROWS);
                transpose(
                    on.cpu.isa(),
                    &rows[4 * q * n..],
                    4 * n,
                    (live, n),
                    &mut sums.host_f32_mut()[q..],
                    r,
                );
            }
            elementwise::add(on.dev, db, &sums, 1.0).expect("both are [N, R]");
        }
    }
}
