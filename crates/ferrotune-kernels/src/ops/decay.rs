//! The gates of a gated recurrence: how much of its state stays from token to token, and how much a token writes.
//!
//! `g = -exp(A_log) softplus(a + dt_bias)` is the logarithm of what stays, `beta = sigmoid(b)` what is written (Mamba 2, arXiv
//! 2405.21060; Gated Delta Networks, arXiv 2412.06464). A token has one of each for a head, so this costs nothing beside the
//! recurrence and has one version for all devices, in host memory.

use super::expect;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// What the gates are made of, all f32.
#[derive(Clone, Copy)]
pub struct Gates<'a> {
    /// `a` `[T, H]`.
    pub a: &'a Tensor,
    /// `b` `[T, H]`.
    pub b: &'a Tensor,
    /// `A_log` `[1, H]`.
    pub a_log: &'a Tensor,
    /// `dt_bias` `[1, H]`.
    pub dt_bias: &'a Tensor,
}

/// Where the gradients of trained weights are added, `[1, H]` each.
#[derive(Default)]
pub struct Grads<'a> {
    /// That of `A_log`.
    pub a_log: Option<&'a mut Tensor>,
    /// That of `dt_bias`.
    pub dt_bias: Option<&'a mut Tensor>,
}

impl Gates<'_> {
    fn check(&self) -> Result<usize> {
        let heads = self.a.cols();
        expect("decay", "b", self.b, self.a.shape())?;
        expect("decay", "A_log", self.a_log, [1, heads])?;
        expect("decay", "dt_bias", self.dt_bias, [1, heads])?;
        Ok(heads)
    }

    /// `-exp(A_log)` and `a + dt_bias` of an element.
    fn parts(&self, i: usize, heads: usize) -> (f64, f64) {
        let h = i % heads;
        let rate = -(self.a_log.host_f32()[h] as f64).exp();
        (rate, self.a.host_f32()[i] as f64 + self.dt_bias.host_f32()[h] as f64)
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Gives `(g, beta)` `[T, H]`.
pub fn forward(dev: &Device, x: Gates<'_>) -> Result<(Tensor, Tensor)> {
    let heads = x.check()?;
    let (mut g, mut beta) = (dev.empty(x.a.rows(), heads), dev.empty(x.a.rows(), heads));
    for (i, g) in g.host_f32_mut().iter_mut().enumerate() {
        let (rate, at) = x.parts(i, heads);
        *g = (rate * softplus(at)) as f32;
    }
    for (beta, b) in beta.host_f32_mut().iter_mut().zip(x.b.host_f32()) {
        *beta = sigmoid(*b as f64) as f32;
    }
    Ok((g, beta))
}

/// Gives `(da, db)` for the gradients of `g` and `beta`.
pub fn backward(
    dev: &Device,
    x: Gates<'_>,
    dg: &Tensor,
    dbeta: &Tensor,
    grads: Grads<'_>,
) -> Result<(Tensor, Tensor)> {
    let heads = x.check()?;
    expect("decay", "dg", dg, x.a.shape())?;
    expect("decay", "dbeta", dbeta, x.a.shape())?;
    let (mut da, mut db) = (dev.empty(x.a.rows(), heads), dev.empty(x.a.rows(), heads));
    let (mut d_log, mut d_bias) = (vec![0.0f64; heads], vec![0.0f64; heads]);
    for (i, (da, dg)) in da.host_f32_mut().iter_mut().zip(dg.host_f32()).enumerate() {
        let (rate, at) = x.parts(i, heads);
        let (dg, h) = (*dg as f64, i % heads);
        d_log[h] += dg * rate * softplus(at);
        let d_at = dg * rate * sigmoid(at);
        d_bias[h] += d_at;
        *da = d_at as f32;
    }
    let of_beta = x.b.host_f32().iter().zip(dbeta.host_f32());
    for (db, (b, dbeta)) in db.host_f32_mut().iter_mut().zip(of_beta) {
        let p = sigmoid(*b as f64);
        *db = (*dbeta as f64 * p * (1.0 - p)) as f32;
    }
    for (sum, new) in [(grads.a_log, d_log), (grads.dt_bias, d_bias)] {
        if let Some(sum) = sum {
            expect("decay", "gradient", sum, [1, heads])?;
            sum.host_f32_mut().iter_mut().zip(new).for_each(|(s, v)| *s += v as f32);
        }
    }
    Ok((da, db))
}
