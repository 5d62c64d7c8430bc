//! The gates of a gated recurrence: how much of its state stays from token to token, and how much a token writes.
//!
//! `g = -exp(A_log) softplus(a + dt_bias)` is the logarithm of what stays, `beta = sigmoid(b)` what is written (Mamba 2, arXiv
//! 2405.21060; Gated Delta Networks, arXiv 2412.06464). A token has one of each for a head, so this costs nothing beside the
//! recurrence and has one version for all devices, in host memory.
//!
//! Mamba 2 writes with the same number that lets its state decay: [`steps`] gives `softplus(dt + dt_bias)` within limits.

use super::expect;
use super::scalar::{sigmoid, softplus};
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

/// What the steps of a state space are made of, all f32.
#[derive(Clone, Copy)]
pub struct Steps<'a> {
    /// `dt` `[T, H]`, before the bias.
    pub dt: &'a Tensor,
    /// `A_log` `[1, H]`.
    pub a_log: &'a Tensor,
    /// `dt_bias` `[1, H]`.
    pub dt_bias: &'a Tensor,
    /// The least and the largest step.
    pub limits: [f32; 2],
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
    grads.sum([&d_log, &d_bias])?;
    Ok((da, db))
}

impl Grads<'_> {
    /// Adds the gradients of `A_log` and `dt_bias`.
    fn sum(self, [a_log, dt_bias]: [&[f64]; 2]) -> Result<()> {
        for (sum, new) in [(self.a_log, a_log), (self.dt_bias, dt_bias)] {
            if let Some(sum) = sum {
                expect("decay", "gradient", sum, [1, new.len()])?;
                sum.host_f32_mut().iter_mut().zip(new).for_each(|(s, v)| *s += *v as f32);
            }
        }
        Ok(())
    }
}

impl Steps<'_> {
    fn check(&self) -> Result<usize> {
        let heads = self.dt.cols();
        expect("steps", "A_log", self.a_log, [1, heads])?;
        expect("steps", "dt_bias", self.dt_bias, [1, heads])?;
        Ok(heads)
    }

    /// `dt + dt_bias` of an element.
    fn at(&self, i: usize, heads: usize) -> f64 {
        self.dt.host_f32()[i] as f64 + self.dt_bias.host_f32()[i % heads] as f64
    }
}

/// Gives the steps `[T, H]` and `a = -exp(A_log)` `[1, H]`.
pub fn steps(dev: &Device, x: Steps<'_>) -> Result<(Tensor, Tensor)> {
    let heads = x.check()?;
    let [least, most] = x.limits;
    let (mut steps, mut a) = (dev.empty(x.dt.rows(), heads), dev.empty(1, heads));
    for (i, step) in steps.host_f32_mut().iter_mut().enumerate() {
        *step = (softplus(x.at(i, heads)) as f32).max(least).min(most);
    }
    for (a, a_log) in a.host_f32_mut().iter_mut().zip(x.a_log.host_f32()) {
        *a = -(*a_log as f64).exp() as f32;
    }
    Ok((steps, a))
}

/// Gives that of `dt` for the gradients of the steps and of `a`. A step at a limit has none.
pub fn steps_backward(
    dev: &Device,
    x: Steps<'_>,
    d_steps: &Tensor,
    da: &Tensor,
    grads: Grads<'_>,
) -> Result<Tensor> {
    let heads = x.check()?;
    expect("steps", "d_steps", d_steps, x.dt.shape())?;
    expect("steps", "da", da, [1, heads])?;
    let inside = x.limits[0]..=x.limits[1];
    let mut d = dev.empty(x.dt.rows(), heads);
    let mut d_bias = vec![0.0f64; heads];
    for (i, (d, d_step)) in d.host_f32_mut().iter_mut().zip(d_steps.host_f32()).enumerate() {
        let at = x.at(i, heads);
        let slope = if inside.contains(&(softplus(at) as f32)) { sigmoid(at) } else { 0.0 };
        let value = *d_step as f64 * slope;
        d_bias[i % heads] += value;
        *d = value as f32;
    }
    // da/dA_log = a.
    let through = |(da, a_log): (&f32, &f32)| *da as f64 * -(*a_log as f64).exp();
    let d_log: Vec<f64> = da.host_f32().iter().zip(x.a_log.host_f32()).map(through).collect();
    grads.sum([&d_log, &d_bias])?;
    Ok(d)
}
