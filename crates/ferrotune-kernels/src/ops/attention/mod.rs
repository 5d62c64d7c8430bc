//! Causal softmax attention within segments, with grouped kv heads and an optional sliding window.
//!
//! `O = softmax(scale Q Kt) V` per head (or `softmax(cap tanh(scale Q Kt / cap)) V`), where a query sees the keys of its segment up to its own position. Scores
//! exist only as tiles; the backward makes them again from the log-sum-exp that the forward kept.

mod cpu;
mod few;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::Precision;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// A run of queries and the run of keys that they may see.
///
/// In training both are the same tokens. In generation the keys are a sequence's cache, and the queries are its
/// last `q_len` tokens: query `i` sees keys `0..=k_len - q_len + i`.
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
}

impl Segment {
    /// Tokens `start..start + len` that attend to each other.
    pub fn own(start: usize, len: usize) -> Self {
        Segment { q_start: start, q_len: len, k_start: start, k_len: len }
    }

    /// The keys that query `i` sees.
    fn visible(&self, i: usize, window: Option<usize>) -> std::ops::Range<usize> {
        let end = self.k_len - self.q_len + i + 1;
        end.saturating_sub(window.unwrap_or(usize::MAX))..end
    }
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

fn check(q: &Tensor, k: &Tensor, v: &Tensor, segments: &[Segment], heads: Heads) -> Result<()> {
    expect("attention", "q", q, [q.rows(), heads.q * heads.dim])?;
    expect("attention", "k", k, [k.rows(), heads.kv * heads.dim])?;
    expect("attention", "v", v, k.shape())?;
    let mut next = 0;
    for s in segments {
        let inside =
            s.q_start == next && s.k_start + s.k_len <= k.rows() && s.q_len <= s.k_len && s.q_len > 0;
        next = s.q_start + s.q_len;
        if !inside {
            let allowed = "segments that follow each other and end inside Q and K";
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
    expect("attention", "o", o, q.shape())?;
    expect("attention", "lse", lse, [heads.q, q.rows()])?;
    expect("attention", "do", d_o, q.shape())?;
    let mut dq = dev.zeros(q.rows(), q.cols());
    let (mut dk, mut dv) = (dev.zeros(k.rows(), k.cols()), dev.zeros(v.rows(), v.cols()));
    let grads = (&mut dq, &mut dk, &mut dv);
    match dev {
        Device::Reference(_) => reference::backward((q, k, v), d_o, segments, heads, grads),
        Device::Cpu(c) => cpu::backward(c, precision, (q, k, v), (o, lse), d_o, segments, heads, grads),
    }
    Ok((dq, dk, dv))
}
