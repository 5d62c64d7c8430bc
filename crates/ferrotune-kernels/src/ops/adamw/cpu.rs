//! Pieces of all tensors in one list, so that many small adapter tensors still fill the threads.

use std::ops::Range;

use half::bf16;

use super::{AdamW, Factors, Param};
use crate::cpu::words::narrow;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::tensor::{Pages, Tensor};

/// Elements of a piece.
pub(super) const PIECE: usize = 16 * 1024;

/// Pieces that are in memory together where tensors lie in a file (8 MiB of each); the next ones are read meanwhile.
pub(super) const WINDOW: usize = 128;

per_isa! {
    pub(super) fn update_piece(value: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], f: &Factors) {
        for i in 0..grad.len() {
            let g = grad[i] * f.grad_scale;
            m[i] = f.beta1 * m[i] + f.one_minus_beta1 * g;
            v[i] = f.beta2 * v[i] + f.one_minus_beta2 * g * g;
            let denominator = v[i].sqrt() * f.inverse_root + f.eps;
            value[i] = value[i] * f.decay - f.step_size * m[i] / denominator;
        }
    }
}

per_isa! {
    fn squares(x: &[f32]) -> f64 {
        let mut acc = [0.0f64; 8];
        for c in x.chunks(8) {
            for (a, v) in acc.iter_mut().zip(c) {
                *a += *v as f64 * *v as f64;
            }
        }
        acc.iter().sum()
    }
}

/// (tensor, start) of every piece.
pub(super) fn pieces(lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = (usize, usize)> {
    lengths.enumerate().flat_map(|(t, n)| (0..n).step_by(PIECE).map(move |at| (t, at)))
}

/// Elements of each tensor that a run of pieces covers.
fn covered(
    pieces: &[(usize, usize)],
    lengths: impl Fn(usize) -> usize,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    pieces.chunk_by(|(t, _), (next, _)| t == next).map(move |run| {
        let ((t, first), (_, last)) = (run[0], run[run.len() - 1]);
        (t, first..(last + PIECE).min(lengths(t)))
    })
}

pub(super) fn update(cpu: &Cpu, constants: AdamW, params: &mut [Param<'_>]) {
    let list: Vec<_> = pieces(params.iter().map(|p| p.value.len())).collect();
    struct Shared<'a> {
        value: SharedMut<'a, f32>,
        grad: &'a [f32],
        m: SharedMut<'a, f32>,
        v: SharedMut<'a, f32>,
        copy: Option<SharedMut<'a, bf16>>,
        pages: [Option<Pages>; 3],
        factors: Factors,
    }
    let shared: Vec<_> = params
        .iter_mut()
        .map(|p| Shared {
            pages: [p.value.pages(), p.m.pages(), p.v.pages()],
            copy: p.copy.as_mut().map(|copy| SharedMut::new(copy.host_bf16_mut())),
            value: SharedMut::new(p.value.host_f32_mut()),
            grad: p.grad.host_f32(),
            m: SharedMut::new(p.m.host_f32_mut()),
            v: SharedMut::new(p.v.host_f32_mut()),
            factors: Factors::new(constants, p.decay, p.lr_factor),
        })
        .collect();
    let paged = shared.iter().any(|s| s.pages.iter().any(Option::is_some));
    let window = if paged { WINDOW } else { list.len().max(1) };
    let advise = |pieces: &[(usize, usize)], advice: fn(&Pages, Range<usize>)| {
        for (t, run) in covered(pieces, |t| shared[t].grad.len()) {
            shared[t].pages.iter().flatten().for_each(|pages| advice(pages, run.clone()));
        }
    };
    let mut windows = list.chunks(window).peekable();
    while let Some(now) = windows.next() {
        if let (true, Some(next)) = (paged, windows.peek()) {
            advise(next, Pages::read_ahead);
        }
        cpu.threads().run(now.len(), |i| {
            let (t, at) = now[i];
            let s = &shared[t];
            let r = at..(at + PIECE).min(s.grad.len());
            // SAFETY: pieces are disjoint.
            let (value, m, v) =
                unsafe { (s.value.slice(r.clone()), s.m.slice(r.clone()), s.v.slice(r.clone())) };
            update_piece(cpu.isa(), value, &s.grad[r.clone()], m, v, &s.factors);
            if let Some(copy) = &s.copy {
                // SAFETY: as above.
                narrow(cpu.isa(), value, unsafe { copy.slice(r) });
            }
        });
        if paged {
            advise(now, Pages::release);
        }
    }
}

pub(super) fn sum_of_squares(cpu: &Cpu, tensors: &[&Tensor]) -> f64 {
    let list: Vec<_> = pieces(tensors.iter().map(|t| t.len())).collect();
    let mut sums = vec![0.0; list.len()];
    let out = SharedMut::new(&mut sums);
    cpu.threads().run(list.len(), |i| {
        let (t, at) = list[i];
        let x = tensors[t].host_f32();
        // SAFETY: every piece has its own sum.
        unsafe { out.slice(i..i + 1)[0] = squares(cpu.isa(), &x[at..(at + PIECE).min(x.len())]) };
    });
    sums.iter().sum()
}
