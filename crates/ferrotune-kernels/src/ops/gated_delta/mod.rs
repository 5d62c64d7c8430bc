//! The gated delta rule (Yang, Kautz, Hatamizadeh: Gated Delta Networks, arXiv 2412.06464): linear attention whose state is
//! a memory from keys to values that decays and is corrected, as in Qwen3-Next and Qwen3.5.
//!
//! A value head has a state `S [dk, dv]`. Token `t` lets it decay by `e^g`, asks what it holds for the key, and writes a share
//! `b` of the difference to the value back:
//!
//! ```text
//! S  = e^g_t S            decay, g <= 0
//! p  = v_t - St k_t       what the memory lacks
//! S += k_t (b_t p)t       its correction
//! o_t = St (scale q_t)
//! ```
//!
//! (`St` is the transposed state.) The state is zero where a segment begins; a segment with a parent goes on from the state
//! at its parent's end. Value head `h` reads key head `h / (Hv / Hk)`.
//!
//! # Chunks
//!
//! Token by token this is a chain of small steps. Within a chunk of tokens it is matrix products (arXiv 2406.06484,
//! section 3). Let `S` be the state before the chunk, `c_i` the sum of `g` from its first token to token `i`, `q` the scaled
//! queries, and `u_i = b_i p_i`. Unrolled, the state after token `i` is `e^c_i S + sum over j <= i of e^(c_i - c_j) k_j u_jt`.
//! With matrices whose rows are the tokens of the chunk, `E = diag(e^c_i)`, and the triangle
//! `D_ij = e^(c_i - c_j)` for `j <= i`, all of whose exponents are at most zero:
//!
//! ```text
//! A = D . (K Kt), j < i       how much of u_j token i finds under its own key
//! M = D . (Q Kt), j <= i
//! P = V - E K S - A U         U = diag(b) P: a triangular system, solved from the first row on
//! O = E Q S + M U
//! S' = e^c_n S + (F K)t U     F = diag(e^(c_n - c_i)), n the last token
//! ```
//!
//! # Backward
//!
//! Nothing is kept from the forward. A sweep over the chunks makes `S` and `P` of each again; a second one goes through them
//! from the last to the first with `dS'`, the gradient of the state behind the chunk:
//!
//! ```text
//! dU = Mt dO + F K dS'
//! X  = dU - At Z              Z = diag(b) X: the transposed system, solved from the last row on
//! dV = Z                      db_i = x_i . p_i
//! dM = dO Ut                  dA = -Z Ut
//! dQ = E dO St + (D . dM) K
//! dK = -E Z St + (D . dA + (D . dA)t) K + (D . dM)t Q + F U dS't
//! dS = e^c_n dS' + (E Q)t dO - (E K)t Z
//! ```
//!
//! `X` is the whole gradient of `U`: what `M` and `dS'` say, and what later tokens lost by finding `u` in the memory. The
//! exponents get
//!
//! ```text
//! dc_i = q_i . (E dO St)_i - k_i . (E Z St)_i - k_i . (F U dS't)_i + sum over j of (G_ij - G_ji),   G = dM . M + dA . A
//! dc_n += e^c_n sum(S . dS') + sum over i of k_i . (F U dS't)_i
//! ```
//!
//! and `dg_t` is the sum of `dc_i` over `i >= t`. The state gradients of the segments that go on from one parent are added up,
//! the last child's first.

mod cpu;
mod few;
mod reference;

use super::expect;
use super::segments::{self, Segment, trees};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

const OP: &str = "gated_delta";

/// What a token writes to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// What the memory lacks: `p = v - St k`.
    Delta,
    /// The value itself: `p = v`, as in Mamba-2. No token asks the memory under its key: `A`, `X - dU` and all terms of `Z`
    /// but dV are zero.
    Value,
}

/// Heads and scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heads {
    /// Query and key heads `Hk`.
    pub k: usize,
    /// Value heads `Hv`, a multiple of `Hk`.
    pub v: usize,
    /// Width `dk` of a query or key.
    pub key_dim: usize,
    /// Width `dv` of a value.
    pub value_dim: usize,
    /// Factor of the queries, usually `1 / sqrt(dk)`.
    pub scale: f32,
}

impl Heads {
    /// Value heads that read one key head.
    fn group(&self) -> usize {
        self.v / self.k
    }

    /// Elements of a value head's state.
    fn state(&self) -> usize {
        self.key_dim * self.value_dim
    }
}

/// The inputs: Q, K and V in f32 or bf16, the others in f32.
#[derive(Clone, Copy)]
pub struct GatedDelta<'a> {
    /// Queries `[T, Hk dk]`; of length one, as the models have them.
    pub q: &'a Tensor,
    /// Keys `[T, Hk dk]`; of length one.
    pub k: &'a Tensor,
    /// Values `[T, Hv dv]`.
    pub v: &'a Tensor,
    /// Logarithms of the decays `[T, Hv]`, none above zero.
    pub g: &'a Tensor,
    /// Shares `[T, Hv]` of the difference that is written, from 0 to 1.
    pub beta: &'a Tensor,
    /// The sequences; of each only the queries' rows and the parent are used.
    pub segments: &'a [Segment],
    /// What is written.
    pub rule: Rule,
    /// How rows are divided, and the scale.
    pub heads: Heads,
}

/// Gradients of the inputs, in f32.
#[derive(Debug)]
pub struct Gradients {
    /// `[T, Hk dk]`.
    pub dq: Tensor,
    /// `[T, Hk dk]`.
    pub dk: Tensor,
    /// `[T, Hv dv]`.
    pub dv: Tensor,
    /// `[T, Hv]`.
    pub dg: Tensor,
    /// `[T, Hv]`.
    pub dbeta: Tensor,
}

/// The states `[sequences, Hv dk dv]` that segments go on from and leave behind, and which row is each segment's.
struct Cached<'a> {
    states: &'a mut Tensor,
    sequences: &'a [usize],
}

fn check(x: GatedDelta<'_>) -> Result<()> {
    let GatedDelta { q, k, v, g, beta, segments, heads, .. } = x;
    let rows = q.rows();
    expect(OP, "q", q, [rows, heads.k * heads.key_dim])?;
    expect(OP, "k", k, [rows, heads.k * heads.key_dim])?;
    expect(OP, "v", v, [rows, heads.v * heads.value_dim])?;
    for (what, t) in [("g", g), ("beta", beta)] {
        expect(OP, what, t, [rows, heads.v])?;
        if t.dtype() != DType::F32 {
            let found = format!("{what} in {}", t.dtype().name());
            return Err(Error::Unsupported { what: OP, found, allowed: "g and beta in f32" });
        }
    }
    let allowed = "segments that follow each other and go on from one of their tree";
    let covered = segments::check("gated_delta segment", segments, |_| true, allowed)?;
    let dims = heads.k > 0 && heads.key_dim > 0 && heads.value_dim > 0;
    if covered != rows || !dims || heads.v == 0 || !heads.v.is_multiple_of(heads.k) {
        let allowed = "segments that cover all rows, key heads that divide the value heads";
        let found = format!("{covered} of {rows} rows, {heads:?}");
        return Err(Error::Unsupported { what: OP, found, allowed });
    }
    Ok(())
}

/// Gives `O` `[T, Hv dv]` in f32.
pub fn forward(dev: &Device, x: GatedDelta<'_>) -> Result<Tensor> {
    check(x)?;
    let mut o = dev.empty(x.v.rows(), x.v.cols());
    match dev {
        Device::Reference(_) => reference::forward(x, None, &mut o),
        Device::Cpu(c) => cpu::forward(c, x, None, &mut o),
    }
    Ok(o)
}

/// The same for segments that go on from the states of cached sequences, zeros where one begins, and leave the states at
/// their ends there: segment `i` is of sequence `sequences[i]`, a row of `states` `[sequences, Hv dk dv]`.
///
/// # Errors
/// A sequence that has two segments or no state; a segment with a parent.
pub fn forward_cached(
    dev: &Device,
    x: GatedDelta<'_>,
    states: &mut Tensor,
    sequences: &[usize],
) -> Result<Tensor> {
    check(x)?;
    expect(OP, "states", states, [states.rows(), x.heads.v * x.heads.state()])?;
    let mut free = vec![true; states.rows()];
    let mut take = |s: &usize| free.get_mut(*s).is_some_and(std::mem::take);
    let parents = x.segments.iter().any(|s| s.parent.is_some());
    if sequences.len() != x.segments.len() || parents || !sequences.iter().all(&mut take) {
        let found = format!("sequences {sequences:?} of {} for {:?}", states.rows(), x.segments);
        let allowed = "a sequence of its own for each segment, and no parents";
        return Err(Error::Unsupported { what: "gated_delta cache", found, allowed });
    }
    let mut o = dev.empty(x.v.rows(), x.v.cols());
    let cached = Cached { states, sequences };
    match dev {
        Device::Reference(_) => reference::forward(x, Some(cached), &mut o),
        Device::Cpu(c) if few::suits(x.segments) => few::forward(c, x, cached, &mut o),
        Device::Cpu(c) => cpu::forward(c, x, Some(cached), &mut o),
    }
    Ok(o)
}

/// Gives the gradients of the inputs of [`forward`] from that of its output.
pub fn backward(dev: &Device, x: GatedDelta<'_>, d_o: &Tensor) -> Result<Gradients> {
    check(x)?;
    expect(OP, "do", d_o, x.v.shape())?;
    let like = |t: &Tensor| dev.empty(t.rows(), t.cols());
    let mut gradients =
        Gradients { dq: like(x.q), dk: like(x.k), dv: like(x.v), dg: like(x.g), dbeta: like(x.beta) };
    match dev {
        Device::Reference(_) => reference::backward(x, d_o, &mut gradients),
        Device::Cpu(c) => cpu::backward(c, x, d_o, &mut gradients),
    }
    Ok(gradients)
}
