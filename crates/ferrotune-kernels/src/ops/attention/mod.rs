//! Causal softmax attention within segments, with grouped kv heads and an optional sliding window.
//!
//! `O = softmax(scale Q Kt) V` per head (or `softmax(cap tanh(scale Q Kt / cap)) V`), where a query sees the keys of its
//! segment, and of those that the segment goes on from, up to its own position. Scores exist only as tiles; the backward
//! makes them again from the log-sum-exp that the forward kept.

mod cpu;
mod few;
mod reference;

use std::iter::successors;
use std::ops::Range;

use super::expect;
use crate::device::Device;
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A run of queries, and the last of the runs of keys that they may see.
///
/// In training both are the same tokens. In generation the keys are a sequence's cache, and the queries are its
/// last `q_len` tokens: query `i` sees keys `0..=k_len - q_len + i`.
///
/// A segment may go on from an earlier one: its queries also see the keys of that parent and of the parent's parents.
/// Segments are therefore trees of common beginnings; those of a tree follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row of Q.
    pub q_start: usize,
    /// Number of queries.
    pub q_len: usize,
    /// First row of K and V.
    pub k_start: usize,
    /// Number of keys, at least `q_len`.
    pub k_len: usize,
    /// The segment whose last key is the one before this segment's first.
    pub parent: Option<usize>,
}

impl Segment {
    /// Tokens `start..start + len` that attend to each other.
    pub fn own(start: usize, len: usize) -> Self {
        Segment { q_start: start, q_len: len, k_start: start, k_len: len, parent: None }
    }

    /// Its queries.
    pub fn queries(&self) -> Range<usize> {
        self.q_start..self.q_start + self.q_len
    }

    /// The same segment, going on from another.
    pub fn after(self, parent: Option<usize>) -> Self {
        Segment { parent, ..self }
    }
}

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

/// The segments of each tree: a root, and those up to the next one.
fn trees(segments: &[Segment]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    segments.chunk_by(|_, next| next.parent.is_some()).map(move |tree| {
        start += tree.len();
        start - tree.len()..start
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

fn check(q: &Tensor, k: &Tensor, v: &Tensor, segments: &[Segment], heads: Heads) -> Result<()> {
    expect("attention", "q", q, [q.rows(), heads.q * heads.dim])?;
    expect("attention", "k", k, [k.rows(), heads.kv * heads.dim])?;
    expect("attention", "v", v, k.shape())?;
    let (mut next, mut tree) = (0, 0);
    for (i, s) in segments.iter().enumerate() {
        if s.parent.is_none() {
            tree = i;
        }
        let inside = s.q_start == next
            && s.k_start + s.k_len <= k.rows()
            && s.q_len <= s.k_len
            && s.q_len > 0
            && s.parent.is_none_or(|parent| (tree..i).contains(&parent));
        next = s.q_start + s.q_len;
        if !inside {
            let allowed =
                "segments that follow each other, end inside Q and K and go on from one of their tree";
            return Err(Error::Unsupported { what: "attention segment", found: format!("{s:?}"), allowed });
        }
    }
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
///
/// Q is `[T, H dim]`, K and V are `[keys, G dim]`, each in f32 or bf16.
pub fn forward(
    dev: &Device,
    precision: Precision,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &[Segment],
    heads: Heads,
) -> Result<(Tensor, Tensor)> {
    check(q, k, v, segments, heads)?;
    let mut o = dev.empty(q.rows(), q.cols());
    let mut lse = dev.empty(heads.q, q.rows());
    match dev {
        Device::Reference(_) => reference::forward(q, k, v, segments, heads, &mut o, &mut lse),
        Device::Cpu(c) if few::suits(segments) => few::forward(c, q, k, v, segments, heads, &mut o, &mut lse),
        Device::Cpu(c) => cpu::forward(c, precision, q, k, v, segments, heads, &mut o, &mut lse),
    }
    Ok((o, lse))
}

/// Gives `(dQ, dK, dV)` in f32 for the gradient `do` of the output.
pub fn backward(
    dev: &Device,
    precision: Precision,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    (o, lse): (&Tensor, &Tensor),
    d_o: &Tensor,
    segments: &[Segment],
    heads: Heads,
) -> Result<(Tensor, Tensor, Tensor)> {
    check(q, k, v, segments, heads)?;
    if let Some(two) = segments.windows(2).find(|two| two[1].k_start < two[0].k_start + two[0].k_len) {
        let (what, found) = ("gradient of attention keys", format!("{two:?}"));
        return Err(Error::Unsupported { what, found, allowed: "keys that no other segment has" });
    }
    expect("attention", "o", o, q.shape())?;
    expect("attention", "lse", lse, [heads.q, q.rows()])?;
    expect("attention", "do", d_o, q.shape())?;
    // Every query has a segment; keys that no segment has get no gradient from anywhere.
    let covered = segments.iter().map(|s| s.k_len).sum::<usize>() == k.rows();
    let sink = |t: &Tensor, written: bool| match dev {
        Device::Cpu(_) if written => dev.empty(t.rows(), t.cols()),
        _ => dev.zeros(t.rows(), t.cols()),
    };
    let (mut dq, mut dk, mut dv) = (sink(q, true), sink(k, covered), sink(v, covered));
    let grads = (&mut dq, &mut dk, &mut dv);
    match dev {
        Device::Reference(_) => reference::backward((q, k, v), d_o, segments, heads, grads),
        Device::Cpu(c) => cpu::backward(c, precision, (q, k, v), (o, lse), d_o, segments, heads, grads),
    }
    Ok((dq, dk, dv))
}
