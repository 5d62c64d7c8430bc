//! The forward of up to four rows, as in decoding: it is bound by reading W, so each row of W is read once and multiplied
//! with all rows of X, from its blocks where its format allows.

use super::super::elementwise;
use super::{Linear, On, starts, total_rank};
use crate::ahead::{BYTES_AHEAD, ask};
use crate::cpu::blocks::{FEW, Products, RUN, Results};
use crate::cpu::dots::{Element, dots};
use crate::cpu::math::dot;
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, Isa, SharedMut};
use crate::dtype::DType;
use crate::tensor::{Buffer, Tensor};

/// Rows of A that a task takes.
const RANKS: usize = 8;

/// Parts of the work for each thread.
const RANGES: usize = 4;

/// One of the linears.
struct Part<'a> {
    linear: &'a Linear<'a>,
    out: Out<'a>,
    products: Option<Products<'a>>,
    first_rank: usize,
}

impl Part<'_> {
    /// In how many runs of rows its weight is multiplied.
    fn runs(&self) -> usize {
        self.linear.weight.rows().div_ceil(RUN)
    }
}

pub(super) fn forward(
    on: On<'_>,
    x: &Tensor,
    linears: &[Linear<'_>],
    outs: &mut [&mut Tensor],
    accumulate: bool,
    h: Option<&mut Tensor>,
) {
    let On { dev, cpu, precision } = on;
    let wide = (x.dtype() != DType::F32).then(|| elementwise::cast(dev, x, DType::F32));
    let x = wide.as_ref().unwrap_or(x);
    let total = total_rank(linears);
    let mut own = dev.empty(x.rows(), total.max(1));
    hidden(cpu, x, linears, &mut own, total);
    if let Some(h) = h {
        h.set(own.host_f32());
    }

    let parts: Vec<_> = linears
        .iter()
        .zip(outs)
        .zip(starts(linears))
        .map(|((linear, out), first_rank)| {
            assert!(!accumulate || out.dtype() == DType::F32, "sums are not kept in bf16");
            let products = match linear.weight.mat() {
                Mat::Weight(w) => Products::new(cpu, precision, w, x.host_f32()),
                _ => None,
            };
            Part { linear, out: Out::from(&mut **out), products, first_rank }
        })
        .collect();
    let (m, h) = (x.rows(), own.host_f32());
    let mut tasks: Vec<_> =
        parts.iter().enumerate().flat_map(|(p, part)| (0..part.runs()).map(move |run| (p, run))).collect();
    cpu.threads().sort(&mut tasks, |(part, run)| (run, parts[part].runs()));
    // A thread reads one part after the other from where it is: the processor foresees that.
    let ranges = tasks.len().min(cpu.threads().count() * RANGES);
    cpu.threads().run_with(
        ranges,
        || None,
        |row, range| {
            for (part, run) in &tasks[tasks.len() * range / ranges..tasks.len() * (range + 1) / ranges] {
                let part = &parts[*part];
                let (n, first) = (part.linear.weight.rows(), run * RUN);
                let run = (n - first).min(RUN);
                let mut ys = [[0.0; RUN]; FEW];
                match &part.products {
                    Some(products) => products.run(first, run, &mut ys),
                    None => decoded(cpu, x, part.linear, first, run, row, &mut ys),
                }
                if let Some(b) = part.linear.branch {
                    let r = b.a.rows();
                    for (i, ys) in ys.iter_mut().enumerate().take(m) {
                        let h = &h[i * total + part.first_rank..][..r];
                        for (y, b_row) in
                            ys.iter_mut().zip(b.b.host_f32()[first * r..].chunks_exact(r)).take(run)
                        {
                            *y += dot(h, b_row);
                        }
                    }
                }
                if let Some(bias) = part.linear.bias {
                    let bias = &bias.host_f32()[first..first + run];
                    ys.iter_mut().for_each(|ys| ys.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
                }
                let mut spare = [0.0; RUN];
                for (i, ys) in ys.iter().enumerate().take(m) {
                    let add = |out: &mut [f32]| {
                        out.iter_mut().zip(ys).for_each(|(o, y)| *o = if accumulate { *o + y } else { *y });
                    };
                    // SAFETY: these columns of every row belong to one task.
                    unsafe { part.out.write(cpu.isa(), i * n + first, run, &mut spare, add) };
                }
            }
        },
    );
}

/// Fills `H = s X At`, `[M, total]`.
fn hidden(cpu: &Cpu, x: &Tensor, linears: &[Linear<'_>], h: &mut Tensor, total: usize) {
    if total == 0 {
        return;
    }
    assert_eq!(h.shape(), [x.rows(), total]);
    let h = SharedMut::new(h.host_f32_mut());
    cpu.threads().run_ranges(total, RANKS, |range| {
        for (l, start) in linears.iter().zip(starts(linears)) {
            let Some(b) = l.branch else { continue };
            for (q, a) in b.a.host_f32().chunks_exact(x.cols()).enumerate() {
                let at = start + q;
                if !range.contains(&at) {
                    continue;
                }
                let mut sums = [0.0; FEW];
                dots(cpu.isa(), x.host_f32(), a, &mut sums);
                for (row, sum) in sums.into_iter().enumerate().take(x.rows()) {
                    // SAFETY: a column of H belongs to one task.
                    unsafe { h.slice(row * total + at..row * total + at + 1)[0] = b.scale * sum };
                }
            }
        }
    });
}

/// The products with a row that others follow: they are asked for.
fn streamed<T: Element>(isa: Isa, x: &[f32], row: &[T], sums: &mut [f32; FEW]) {
    ask(row.as_ptr().cast::<u8>().wrapping_add(BYTES_AHEAD), size_of_val(row));
    dots(isa, x, row, sums);
}

/// The products of rows that are floats, or that become floats one after the other in `row`.
fn decoded(
    cpu: &Cpu,
    x: &Tensor,
    linear: &Linear<'_>,
    first: usize,
    run: usize,
    row: &mut Option<Buffer>,
    ys: &mut Results,
) {
    let (k, isa, mat) = (x.cols(), cpu.isa(), linear.weight.mat());
    let narrow = mat.bf16();
    for j in 0..run {
        let mut sums = [0.0; FEW];
        match (mat, narrow) {
            (_, Some(w)) => streamed(isa, x.host_f32(), &w[(first + j) * k..][..k], &mut sums),
            (Mat::F32(w, _), _) => streamed(isa, x.host_f32(), &w[(first + j) * k..][..k], &mut sums),
            (mat, _) => {
                let row = &mut row.get_or_insert_with(|| cpu.pool().take(k)).f32_mut()[..k];
                mat.read(isa, first + j, 0, row);
                dots(isa, x.host_f32(), row, &mut sums);
            }
        }
        for (ys, sum) in ys.iter_mut().zip(sums) {
            ys[j] = sum;
        }
    }
}
