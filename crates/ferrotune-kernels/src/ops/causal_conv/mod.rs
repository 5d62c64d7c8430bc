//! A short causal convolution for every channel by itself, within segments, with what models put around it.
//!
//! `z[t] = b + sum_k w[k] u[t - (K - 1) + k]`, where `u` of a token before the segment's first is that of the parent's last
//! tokens, or 0. What `u` is and what becomes of `z` is said by [`Around`]. The backward computes `z` again: it costs `K`
//! products for a value, less than to keep it.

mod cpu;
mod reference;

use super::expect;
use super::segments::{self, Segment};
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Most taps `K`.
pub const MOST_TAPS: usize = 8;

/// What is around the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// `silu(conv(x))` for rows `x` `[C]`: Mamba 2 and the gated delta rule.
    Silu,
    /// `c * conv(b * x)` for rows `b, c, x` `[3 C]`: the short convolution of LFM2.
    Gates,
}

impl Around {
    /// Parts of `C` values that a row of the input has.
    fn parts(self) -> usize {
        match self {
            Around::Silu => 1,
            Around::Gates => 3,
        }
    }
}

/// A convolution of some rows.
#[derive(Clone, Copy)]
pub struct Conv<'a> {
    /// `[T, C]` or `[T, 3 C]`, f32 or bf16.
    pub x: &'a Tensor,
    /// `w` `[C, K]`, f32; the last tap meets the token itself.
    pub weight: &'a Tensor,
    /// `b` `[1, C]`, f32.
    pub bias: Option<&'a Tensor>,
    /// What is around it.
    pub around: Around,
    /// Which tokens follow each other; only queries and parents are looked at.
    pub segments: &'a [Segment],
}

/// What sequences that go on later keep: `u` of their last `K - 1` tokens.
pub struct States<'a> {
    /// `[sequences * (K - 1), C]`, f32, the oldest token of a sequence first; zeros before a sequence begins.
    pub rows: &'a mut Tensor,
    /// The sequence of each segment; no two have the same.
    pub sequences: &'a [usize],
}

/// Where the gradients of trained weights are added.
#[derive(Default)]
pub struct Grads<'a> {
    /// `[C, K]`.
    pub weight: Option<&'a mut Tensor>,
    /// `[1, C]`.
    pub bias: Option<&'a mut Tensor>,
}

impl Conv<'_> {
    fn channels(&self) -> usize {
        self.weight.rows()
    }

    fn taps(&self) -> usize {
        self.weight.cols()
    }

    fn check(&self) -> Result<()> {
        let (c, t) = (self.channels(), self.x.rows());
        expect("causal_conv", "x", self.x, [t, c * self.around.parts()])?;
        if let Some(bias) = self.bias {
            expect("causal_conv", "bias", bias, [1, c])?;
        }
        if !(1..=MOST_TAPS).contains(&self.taps()) {
            let found = format!("{} taps", self.taps());
            return Err(Error::Unsupported { what: "causal_conv", found, allowed: "1 to 8 taps" });
        }
        let allowed = "segments that follow each other, inside X, and go on from one of their tree";
        let inside = |s: &Segment| s.queries().end <= t;
        let covered = segments::check("causal_conv segment", self.segments, inside, allowed)?;
        if covered != t {
            let found = format!("{covered} of {t} rows");
            return Err(Error::Unsupported { what: "causal_conv", found, allowed: "segments that cover X" });
        }
        Ok(())
    }

    /// For each row the one before it in its sequence, if there is one.
    fn before(&self) -> Vec<Option<u32>> {
        let mut before = Vec::with_capacity(self.x.rows());
        for s in self.segments {
            let last = s.parent.map(|parent| self.segments[parent].queries().end as u32 - 1);
            before.push(last);
            before.extend(s.queries().skip(1).map(|row| Some(row as u32 - 1)));
        }
        before
    }
}

/// The rows before `row` in its sequence, the nearest first, at most `out.len()`; how many there are.
fn rows_before(before: &[Option<u32>], row: usize, out: &mut [usize]) -> usize {
    let mut row = row;
    for (n, slot) in out.iter_mut().enumerate() {
        let Some(previous) = before[row] else { return n };
        row = previous as usize;
        *slot = row;
    }
    out.len()
}

/// `y` `[T, C]` in `dtype`. With `states` the segments go on from them, and leave theirs there.
pub fn forward(dev: &Device, conv: Conv<'_>, states: Option<States<'_>>, dtype: DType) -> Result<Tensor> {
    conv.check()?;
    if let Some(states) = &states {
        expect("causal_conv", "states", states.rows, [states.rows.rows(), conv.channels()])?;
        let rows = (conv.taps() - 1) * states.sequences.iter().map(|s| s + 1).max().unwrap_or(0);
        if states.sequences.len() != conv.segments.len() || rows > states.rows.rows() {
            let found = format!("sequences {:?}, {} rows", states.sequences, states.rows.rows());
            let allowed = "a sequence for each segment, with rows for its state";
            return Err(Error::Unsupported { what: "causal_conv states", found, allowed });
        }
    }
    let mut y = dev.uninit(conv.x.rows(), conv.channels(), dtype);
    match dev {
        Device::Reference(_) => reference::forward(conv, states, &mut y),
        Device::Cpu(c) => cpu::forward(c, conv, states, &mut y),
    }
    Ok(y)
}

/// The gradient of `x` in `dtype`, for the gradient `dy` `[T, C]` of the output in f32.
pub fn backward(
    dev: &Device,
    conv: Conv<'_>,
    dy: &Tensor,
    dtype: DType,
    mut grads: Grads<'_>,
) -> Result<Tensor> {
    conv.check()?;
    expect("causal_conv", "dy", dy, [conv.x.rows(), conv.channels()])?;
    if let Some(weight) = &mut grads.weight {
        expect("causal_conv", "dw", weight, conv.weight.shape())?;
    }
    if let Some(bias) = &mut grads.bias {
        expect("causal_conv", "db", bias, [1, conv.channels()])?;
    }
    let mut dx = dev.uninit(conv.x.rows(), conv.x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::backward(conv, dy.host_f32(), grads, &mut dx),
        Device::Cpu(c) => cpu::backward(c, conv, dy.host_f32(), grads, &mut dx),
    }
    Ok(dx)
}
