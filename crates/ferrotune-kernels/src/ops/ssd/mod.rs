//! The state space layer of Mamba-2 (Dao and Gu: Transformers are SSMs, arXiv 2405.21060), as in Bamba, Granite 4 and
//! Nemotron-H.
//!
//! A head has a state `S [N, P]`. With step `d = dt_t` and the head's `a < 0`:
//!
//! ```text
//! S  = e^(d a) S + d B_t x_tt
//! y_t = St C_t + D x_t
//! ```
//!
//! That is the recurrence of [`gated_delta`] where the value is written as it is ([`Rule::Value`]): keys are `B`, queries `C`,
//! `g = dt a` and `b = dt`. Chunks, trees and caches are explained there. Then `ddt = db + a dg`, `da` is the sum of `dt dg` over
//! the tokens, and `dD` that of `x . dy`.

mod cpu;
mod reference;

use super::expect;
use super::gated_delta::{self, GatedDelta, Rule};
use super::segments::Segment;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

const OP: &str = "ssd";

/// How rows are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Groups `G` of heads that share B and C; divides `H`.
    pub groups: usize,
    /// Heads `H`.
    pub count: usize,
    /// Rows `N` of a state, the width of B and C.
    pub state_dim: usize,
    /// Columns `P` of a state, the width of x.
    pub head_dim: usize,
}

/// The inputs: x, B and C in f32 or bf16, the others in f32.
#[derive(Clone, Copy)]
pub struct Ssd<'a> {
    /// `[T, H P]`.
    pub x: &'a Tensor,
    /// Steps `[T, H]`: behind the bias, softplus and limits.
    pub dt: &'a Tensor,
    /// `a` `[1, H]`, below zero: `-exp(A_log)`.
    pub a: &'a Tensor,
    /// `[T, G N]`.
    pub b: &'a Tensor,
    /// `[T, G N]`.
    pub c: &'a Tensor,
    /// `D` `[1, H]`.
    pub d: &'a Tensor,
    /// The sequences; of each only the queries' rows and the parent are used.
    pub segments: &'a [Segment],
    /// How rows are divided.
    pub heads: Heads,
}

/// Gradients of the inputs, in f32 and of their shapes.
#[derive(Debug)]
pub struct Gradients {
    /// Of x.
    pub dx: Tensor,
    /// Of the steps.
    pub ddt: Tensor,
    /// Of `a`.
    pub da: Tensor,
    /// Of B.
    pub db: Tensor,
    /// Of C.
    pub dc: Tensor,
    /// Of `D`.
    pub dd: Tensor,
}

fn check(x: Ssd<'_>) -> Result<()> {
    if x.heads.count == 0 {
        return Err(Error::Unsupported { what: OP, found: format!("{:?}", x.heads), allowed: "heads" });
    }
    expect(OP, "x", x.x, [x.x.rows(), x.heads.count * x.heads.head_dim])?;
    for (what, t, rows) in [("dt", x.dt, x.x.rows()), ("a", x.a, 1), ("d", x.d, 1)] {
        expect(OP, what, t, [rows, x.heads.count])?;
        if t.dtype() != DType::F32 {
            let found = format!("{what} in {}", t.dtype().name());
            return Err(Error::Unsupported { what: OP, found, allowed: "dt, a and d in f32" });
        }
    }
    Ok(())
}

/// The same as a recurrence, whose decays go to `g`.
fn recurrence<'a>(dev: &Device, x: Ssd<'a>, g: &'a mut Tensor) -> GatedDelta<'a> {
    match dev {
        Device::Reference(_) => reference::decays(x.dt, x.a, g),
        Device::Cpu(c) => cpu::decays(c, x.dt, x.a, g),
    }
    let Heads { groups, count, state_dim, head_dim } = x.heads;
    let heads =
        gated_delta::Heads { k: groups, v: count, key_dim: state_dim, value_dim: head_dim, scale: 1.0 };
    let Ssd { x: v, dt: beta, b: k, c: q, segments, .. } = x;
    GatedDelta { q, k, v, g, beta, segments, rule: Rule::Value, heads }
}

/// `y += D x`, whatever x is.
fn skip(dev: &Device, x: &Tensor, d: &Tensor, y: &mut Tensor) {
    match dev {
        Device::Reference(_) => reference::skip(x, d, y),
        Device::Cpu(c) => cpu::skip(c, x, d, y),
    }
}

/// Gives `y` `[T, H P]` in f32.
pub fn forward(dev: &Device, x: Ssd<'_>) -> Result<Tensor> {
    check(x)?;
    let mut g = dev.empty(x.dt.rows(), x.dt.cols());
    let mut y = gated_delta::forward(dev, recurrence(dev, x, &mut g))?;
    skip(dev, x.x, x.d, &mut y);
    Ok(y)
}

/// The same on the states `[sequences, H N P]` of cached sequences, as [`gated_delta::forward_cached`] has it.
pub fn forward_cached(dev: &Device, x: Ssd<'_>, states: &mut Tensor, sequences: &[usize]) -> Result<Tensor> {
    check(x)?;
    let mut g = dev.empty(x.dt.rows(), x.dt.cols());
    let mut y = gated_delta::forward_cached(dev, recurrence(dev, x, &mut g), states, sequences)?;
    skip(dev, x.x, x.d, &mut y);
    Ok(y)
}

/// Gives the gradients of the inputs of [`forward`] from that of its output.
pub fn backward(dev: &Device, x: Ssd<'_>, dy: &Tensor) -> Result<Gradients> {
    check(x)?;
    let mut g = dev.empty(x.dt.rows(), x.dt.cols());
    let found = gated_delta::backward(dev, recurrence(dev, x, &mut g), dy)?;
    let gated_delta::Gradients { dq: dc, dk: db, dv: mut dx, dg, dbeta: mut ddt } = found;
    skip(dev, dy, x.d, &mut dx);
    let (mut da, mut dd) = (dev.empty(1, x.heads.count), dev.empty(1, x.heads.count));
    let sinks = Sinks { ddt: &mut ddt, da: &mut da, dd: &mut dd };
    match dev {
        Device::Reference(_) => reference::backward(x, dy, &dg, sinks),
        Device::Cpu(c) => cpu::backward(c, x, dy, &dg, sinks),
    }
    Ok(Gradients { dx, ddt, da, db, dc, dd })
}

/// Where the gradients of a head's numbers go; `ddt` holds that of `b` and gets the part through the decay.
struct Sinks<'a> {
    ddt: &'a mut Tensor,
    da: &'a mut Tensor,
    dd: &'a mut Tensor,
}
