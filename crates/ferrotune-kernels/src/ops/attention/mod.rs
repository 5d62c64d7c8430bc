//! Causal softmax attention within segments, with grouped kv heads and an optional sliding window.
//!
//! `O = softmax(scale Q Kt) V` per head (or `softmax(cap tanh(scale Q Kt / cap)) V`), where a query sees the keys of its
//! segment, and of those that the segment goes on from, up to its own position. Scores exist only as tiles; the backward
//! makes them again from the log-sum-exp that the forward kept.

mod cpu;
mod few;
mod reference;
mod sinks;

pub use sinks::{add_sinks, sinks_backward};

use std::iter::successors;
use std::ops::Range;

use super::expect;
pub use super::segments::Segment;
use super::segments::{self, trees};
use crate::device::{Ctx, Device};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The keys of one segment, as those see them that go on from it.
#[derive(Clone, Copy)]
struct Run {
    segment: usize,
    /// Position of its first key in the sequence.
    base: usize,
}

/// Keys that come before those of segment `s`.
fn base(segments: &[Segment], s: usize) -> usize {
    successors(segments[s].parent, |s| segments[*s].parent).map(|s| segments[s].k_len).sum()
}

/// The runs of keys that segment `s` sees: its own, then its parent's, and so on up.
fn runs(segments: &[Segment], s: usize) -> impl Iterator<Item = Run> {
    let mut end = base(segments, s) + segments[s].k_len;
    successors(Some(s), |s| segments[*s].parent).map(move |segment| {
        end -= segments[segment].k_len;
        Run { segment, base: end }
    })
}

/// The part of `start..start + n` that lies in `positions`, relative to `start`.
fn within(positions: &Range<usize>, start: usize, n: usize) -> Range<usize> {
    let first = positions.start.clamp(start, start + n) - start;
    first..(positions.end.clamp(start, start + n) - start).max(first)
}

/// Heads and scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query heads `H`.
    pub q: usize,
    /// Key and value heads `G`; divides `H`.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor of the scores, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// A query sees only this many keys, itself included.
    pub window: Option<usize>,
    /// Scores become `cap tanh(score / cap)` before the softmax.
    pub cap: Option<f32>,
}

impl Heads {
    /// The positions of the keys that a query at position `p` sees.
    fn visible(&self, p: usize) -> Range<usize> {
        (p + 1).saturating_sub(self.window.unwrap_or(usize::MAX))..p + 1
    }
}

/// What attends to what: Q is `[T, H dim]`, K and V are `[keys, G dim]`, each in f32 or bf16.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// Which keys a query may see.
    pub segments: &'a [Segment],
    /// How rows are divided, and the function of the scores.
    pub heads: Heads,
}

/// What [`forward`] gave, and the gradient of its output.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// `O` `[T, H dim]`.
    pub o: &'a Tensor,
    /// The log-sum-exp of the scores `[H, T]`.
    pub lse: &'a Tensor,
    /// The gradient of `O`.
    pub d_o: &'a Tensor,
}

/// Where the gradients of Q, K and V go.
struct Sinks<'a> {
    dq: &'a mut Tensor,
    dk: &'a mut Tensor,
    dv: &'a mut Tensor,
}

fn check(x: Attention<'_>) -> Result<()> {
    let Attention { q, k, v, segments, heads } = x;
    expect("attention", "q", q, [q.rows(), heads.q * heads.dim])?;
    expect("attention", "k", k, [k.rows(), heads.kv * heads.dim])?;
    expect("attention", "v", v, k.shape())?;
    let allowed = "segments that follow each other, end inside Q and K and go on from one of their tree";
    let good = |s: &Segment| s.k_start + s.k_len <= k.rows() && s.q_len <= s.k_len;
    let next = segments::check("attention segment", segments, good, allowed)?;
    if next != q.rows() || heads.kv == 0 || !heads.q.is_multiple_of(heads.kv) || heads.window == Some(0) {
        let allowed = "segments that cover Q, kv heads that divide the heads, a window of one key or more";
        return Err(Error::Unsupported {
            what: "attention",
            found: format!("{next} of {} rows, {heads:?}", q.rows()),
            allowed,
        });
    }
    Ok(())
}

/// Gives `O` `[T, H dim]` in f32 and the log-sum-exp of the scores `[H, T]`.
pub fn forward(ctx: Ctx<'_>, x: Attention<'_>) -> Result<(Tensor, Tensor)> {
    check(x)?;
    let mut o = ctx.dev.empty(x.q.rows(), x.q.cols());
    let mut lse = ctx.dev.empty(x.heads.q, x.q.rows());
    match ctx.dev {
        Device::Reference(_) => reference::forward(x, &mut o, &mut lse),
        Device::Cpu(c) if few::suits(x.segments) => few::forward(c, x, &mut o, &mut lse),
        Device::Cpu(c) => cpu::forward(c, ctx.precision, x, &mut o, &mut lse),
    }
    Ok((o, lse))
}

/// Gives `(dQ, dK, dV)` in f32.
pub fn backward(ctx: Ctx<'_>, x: Attention<'_>, outputs: Outputs<'_>) -> Result<(Tensor, Tensor, Tensor)> {
    check(x)?;
    let (Attention { q, k, v, segments, heads }, dev) = (x, ctx.dev);
    if let Some(two) = segments.windows(2).find(|two| two[1].k_start < two[0].k_start + two[0].k_len) {
        let (what, found) = ("gradient of attention keys", format!("{two:?}"));
        return Err(Error::Unsupported { what, found, allowed: "keys that no other segment has" });
    }
    expect("attention", "o", outputs.o, q.shape())?;
    expect("attention", "lse", outputs.lse, [heads.q, q.rows()])?;
    expect("attention", "do", outputs.d_o, q.shape())?;
    // Every query has a segment; keys that no segment has get no gradient from anywhere.
    let covered = segments.iter().map(|s| s.k_len).sum::<usize>() == k.rows();
    let sink = |t: &Tensor, written: bool| match dev {
        Device::Cpu(_) if written => dev.empty(t.rows(), t.cols()),
        _ => dev.zeros(t.rows(), t.cols()),
    };
    let (mut dq, mut dk, mut dv) = (sink(q, true), sink(k, covered), sink(v, covered));
    let sinks = Sinks { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    match dev {
        Device::Reference(_) => reference::backward(x, outputs, sinks),
        Device::Cpu(c) => cpu::backward(c, ctx.precision, x, outputs, sinks),
    }
    Ok((dq, dk, dv))
}
