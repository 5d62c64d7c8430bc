//! Mamba-2 as hybrid models have it: norm, one projection to an output gate `z`, to `x`, `B` and `C` and to the steps `dt`; a
//! short convolution over `x`, `B` and `C`; the state space; its output gated and maybe normed; output projection onto the
//! residual stream.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::causal_conv::{self, Around};
use ferrotune_kernels::ops::decay::{self, Steps};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::ssd::{self, Heads, Ssd};
use ferrotune_kernels::{DType, Device, Precision, Tensor};

use super::conv_taps::ConvTaps;
use super::kv_cache::states;
use super::mixer::{Cached, StreamGradient};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor, Vector};
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, before, before_backward};
use super::saved::{Keep, SavedActivation};
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture as arch;
use crate::arch::architecture::Architecture;

/// Mamba-2 in one layer.
#[derive(Debug)]
pub struct Mamba2 {
    /// `input_layernorm`.
    pub norm: Option<Norm>,
    /// `mamba.in_proj`: the rows of `z`, `x`, `B`, `C` and `dt`.
    pub in_proj: LinearLayer,
    /// `mamba.conv1d`, over the channels of `x`, `B` and `C`.
    pub conv: ConvTaps,
    /// `mamba.A_log` `[1, H]`.
    pub a_log: Vector,
    /// `mamba.D` `[1, H]`.
    pub d: Vector,
    /// `mamba.dt_bias` `[1, H]`.
    pub dt_bias: Vector,
    /// The least and the largest step.
    pub limits: [f32; 2],
    /// What becomes of the state space's output.
    pub gate: OutGate,
    /// Factors of `z`, `x`, `B`, `C` and `dt`.
    pub factors: [f32; 5],
    /// `mamba.out_proj`.
    pub out_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
    /// Heads.
    pub heads: Heads,
    /// Module path, `model.layers.0.mamba`.
    pub name: String,
}

/// How `y`, the output of the state space, meets `z`.
#[derive(Debug)]
pub enum OutGate {
    /// `silu(z) y`.
    Plain,
    /// `norm(silu(z) y)`.
    Normed(Norm),
    /// `silu(z) norm(y)`.
    OfNormed(Norm),
}

/// What the projection gives, or its gradient.
struct Projected {
    z: Tensor,
    xbc: Tensor,
    dt: Tensor,
}

/// What the state space reads.
struct Inputs {
    x: Tensor,
    b: Tensor,
    c: Tensor,
    steps: Tensor,
    a: Tensor,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct Mamba2Saved {
    x: SavedActivation,
    z: SavedActivation,
    xbc: SavedActivation,
    dt: Tensor,
    y: SavedActivation,
    h_in: Option<Tensor>,
    h_out: Option<Tensor>,
    residual: ResidualSaved,
}

impl Mamba2Saved {
    /// Bytes that a token takes in it, without those of branches.
    pub(super) fn bytes_per_token(
        a: &Architecture,
        mamba: &arch::Mamba2,
        precision: Precision,
        keep: Keep,
    ) -> usize {
        let waiting = a.hidden + mamba.channels() + 2 * mamba.width();
        SavedActivation::nbytes(waiting, precision, keep)
            + mamba.heads.count * 4
            + ResidualSaved::bytes_per_token(a, precision)
    }
}

impl OutGate {
    /// The norm.
    pub fn norm(&self) -> Option<&Norm> {
        match self {
            OutGate::Plain => None,
            OutGate::Normed(norm) | OutGate::OfNormed(norm) => Some(norm),
        }
    }

    /// The norm, mutable.
    pub(crate) fn norm_mut(&mut self) -> Option<&mut Norm> {
        match self {
            OutGate::Plain => None,
            OutGate::Normed(norm) | OutGate::OfNormed(norm) => Some(norm),
        }
    }

    fn forward(&self, pass: &Pass<'_>, y: &Tensor, z: &Tensor, dtype: DType) -> Result<Tensor> {
        let gated = |y: &Tensor, dtype| activation::gated(pass.dev, Activation::Silu, z, y, dtype);
        match self {
            OutGate::Plain => Ok(gated(y, dtype)?),
            OutGate::Normed(norm) => norm.forward(pass, &gated(y, DType::F32)?, dtype),
            OutGate::OfNormed(norm) => Ok(gated(&norm.forward(pass, y, z.dtype())?, dtype)?),
        }
    }

    /// The gradients of `y` and `z`, in f32.
    fn backward(
        &self,
        pass: &Pass<'_>,
        y: &Tensor,
        z: &Tensor,
        d: &Tensor,
        grads: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let through = |y: &Tensor, d: &Tensor| -> Result<(Tensor, Tensor)> {
            let (dz, dy) = activation::gated_backward(pass.dev, Activation::Silu, z, y, d, DType::F32)?;
            Ok((dy, dz))
        };
        match self {
            OutGate::Plain => through(y, d),
            OutGate::Normed(norm) => {
                let gated = activation::gated(pass.dev, Activation::Silu, z, y, DType::F32)?;
                let mut d_gated = pass.dev.zeros(y.rows(), y.cols());
                norm.backward(pass, &gated, d, &mut d_gated, grads)?;
                through(y, &d_gated)
            }
            OutGate::OfNormed(norm) => {
                let (d_normed, dz) = through(&norm.forward(pass, y, z.dtype())?, d)?;
                let mut dy = pass.dev.zeros(y.rows(), y.cols());
                norm.backward(pass, y, &d_normed, &mut dy, grads)?;
                Ok((dy, dz))
            }
        }
    }
}

impl Inputs {
    fn op<'a>(&'a self, d: &'a Tensor, tokens: Tokens<'a>, heads: Heads) -> Ssd<'a> {
        let Inputs { x, b, c, steps, a } = self;
        Ssd { x, dt: steps, a, b, c, d, segments: tokens.segments, heads }
    }
}

impl Mamba2 {
    /// Values of `x`, of `z` and of the output for a token.
    fn width(&self) -> usize {
        self.heads.count * self.heads.head_dim
    }

    fn project(&self, pass: &Pass<'_>, n: &Tensor, dtype: DType) -> Result<(Projected, Option<Tensor>)> {
        // Steps stay in f32, as the gates of all recurrences do.
        let ([all], h) = pass.linears(n, [&self.in_proj], DType::F32)?;
        let (z, dt) = (self.width(), all.cols() - self.heads.count);
        let part = |range| elementwise::columns(pass.dev, &all, range);
        let of = Projected { z: part(0..z)?, xbc: part(z..dt)?, dt: part(dt..all.cols())? };
        let Projected { z, xbc, dt } = self.scaled(pass, of)?;
        let [z, xbc] = [z, xbc].map(|t| pass.stored(t, dtype));
        Ok((Projected { z, xbc, dt }, h))
    }

    /// What is projected (or its gradient), all in f32, times the factors.
    fn scaled(&self, pass: &Pass<'_>, mut of: Projected) -> Result<Projected> {
        let [z, x, b, c, dt] = self.factors;
        if self.factors != [1.0; 5] {
            elementwise::scale(pass.dev, &mut of.z, z);
            elementwise::scale(pass.dev, &mut of.dt, dt);
            let [mut of_x, mut of_b, mut of_c] = self.parts(pass, &of.xbc)?;
            elementwise::scale(pass.dev, &mut of_x, x);
            elementwise::scale(pass.dev, &mut of_b, b);
            elementwise::scale(pass.dev, &mut of_c, c);
            of.xbc = elementwise::join(pass.dev, &[&of_x, &of_b, &of_c])?;
        }
        Ok(of)
    }

    /// `x`, `B` and `C`, which stand side by side.
    fn parts(&self, pass: &Pass<'_>, xbc: &Tensor) -> Result<[Tensor; 3]> {
        let (x, all) = (self.width(), xbc.cols());
        let b = (x + all) / 2;
        let part = |range| elementwise::columns(pass.dev, xbc, range);
        Ok([part(0..x)?, part(x..b)?, part(b..all)?])
    }

    /// What the state space reads for what the projection gave.
    fn inputs(
        &self,
        pass: &Pass<'_>,
        xbc: &Tensor,
        dt: &Tensor,
        tokens: Tokens<'_>,
        states: Option<causal_conv::States<'_>>,
        dtype: DType,
    ) -> Result<Inputs> {
        let conv = self.conv.over(pass, xbc, Around::Silu, tokens);
        let mixed = causal_conv::forward(pass.dev, conv, states, dtype)?;
        let [x, b, c] = self.parts(pass, &mixed)?;
        let (steps, a) = decay::steps(pass.dev, self.steps(pass, dt))?;
        Ok(Inputs { x, b, c, steps, a })
    }

    fn steps<'a>(&'a self, pass: &Pass<'a>, dt: &'a Tensor) -> Steps<'a> {
        let [a_log, dt_bias] = [&self.a_log, &self.dt_bias].map(|v| pass.vector(v));
        Steps { dt, a_log, dt_bias, limits: self.limits }
    }

    /// Adds the state space over `x` to `x`, or that over `input` if there is one; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        input: Option<&Tensor>,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<Mamba2Saved>> {
        let used = if cache.is_some() { DType::F32 } else { pass.precision.saved() };
        let n = before(&self.norm, pass, input.unwrap_or(x))?;
        let (Projected { z, xbc, dt }, h_in) = self.project(pass, &n, used)?;
        drop(n);
        let mut states = states(cache);
        let conv_states =
            states.as_mut().map(|([rows, _], sequences)| causal_conv::States { rows, sequences });
        let inputs = self.inputs(pass, &xbc, &dt, tokens, conv_states, used)?;
        let op = inputs.op(pass.vector(&self.d), tokens, self.heads);
        let y = match states {
            Some(([_, state], sequences)) => ssd::forward_cached(pass.dev, op, state, sequences)?,
            None => ssd::forward(pass.dev, op)?,
        };
        drop(inputs);
        let y = pass.stored(y, used);
        let out = self.gate.forward(pass, &y, &z, used)?;
        let x_in = keep.map(|keep| (SavedActivation::copy_of(pass, input.unwrap_or(x), keep), keep));
        let (h_out, residual) = self.residual.forward(pass, &out, &self.out_proj, x)?;
        drop(out);
        Ok(x_in.map(|(x, keep)| {
            let [z, xbc, y] = [z, xbc, y].map(|t| SavedActivation::new(pass, t, keep));
            Mamba2Saved { x, z, xbc, dt, y, h_in, h_out, residual }
        }))
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: Mamba2Saved,
        stream: StreamGradient<'_>,
        tokens: Tokens<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let StreamGradient { d_out, dx, need_dx } = stream;
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let saved = pass.precision.saved();
        let d = self.residual.backward(pass, &s.residual, d_out.unwrap_or(dx), grads)?;
        let (y, z) = (s.y.take(pass), s.z.take(pass));
        let out = self.gate.forward(pass, &y, &z, saved)?;
        let below = need_dn || self.trains_inside(pass);
        let d_gated = pass.linears_backward(&out, s.h_out.as_ref(), [&self.out_proj], [&*d], below, grads)?;
        drop((d, out));
        let Some(d_gated) = d_gated else { return Ok(()) };
        let (dy, dz) = self.gate.backward(pass, &y, &z, &d_gated, grads)?;
        drop((d_gated, y, z));
        let xbc = s.xbc.take(pass);
        let inputs = self.inputs(pass, &xbc, &s.dt, tokens, None, saved)?;
        let op = inputs.op(pass.vector(&self.d), tokens, self.heads);
        let ssd::Gradients { dx: d_x, ddt, da, db, dc, dd } = ssd::backward(pass.dev, op, &dy)?;
        drop((dy, inputs));
        let d_mixed = elementwise::join(pass.dev, &[&d_x, &db, &dc])?;
        drop((d_x, db, dc));
        let conv = self.conv.over(pass, &xbc, Around::Silu, tokens);
        let d_xbc = self.conv.backward(pass, conv, &d_mixed, DType::F32, grads)?;
        drop((d_mixed, xbc));
        let d_dt = self.numbers_backward(pass, &s.dt, [&ddt, &da, &dd], grads)?;
        let Projected { z, xbc, dt } = self.scaled(pass, Projected { z: dz, xbc: d_xbc, dt: d_dt })?;
        let [z, xbc, dt] = [z, xbc, dt].map(|t| pass.stored(t, saved));
        let d_all = elementwise::join(pass.dev, &[&z, &xbc, &dt])?;
        drop((z, xbc, dt));
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let dn = pass.linears_backward(&n, s.h_in.as_ref(), [&self.in_proj], [&d_all], need_dn, grads)?;
        drop(n);
        before_backward(&self.norm, pass, &x, dn, dx, grads)
    }

    /// The gradient of `dt`; those of `A_log`, `dt_bias` and `D` are summed if they are trained.
    fn numbers_backward(
        &self,
        pass: &Pass<'_>,
        dt: &Tensor,
        [d_steps, da, dd]: [&Tensor; 3],
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let ids = [&self.a_log, &self.dt_bias, &self.d].map(Vector::trained);
        let [mut a_log, mut dt_bias, mut d] = grads.take_all(ids);
        let sinks = decay::Grads { a_log: a_log.as_mut(), dt_bias: dt_bias.as_mut() };
        let d_dt = decay::steps_backward(pass.dev, self.steps(pass, dt), d_steps, da, sinks);
        let added = d.iter_mut().try_for_each(|d| elementwise::add(pass.dev, d, dd, 1.0));
        grads.put_back(ids, [a_log, dt_bias, d]);
        added?;
        Ok(d_dt?)
    }

    /// Whether something before the output projection is trained, without the norm of the input.
    fn trains_inside(&self, pass: &Pass<'_>) -> bool {
        self.conv.trains()
            || [&self.a_log, &self.d, &self.dt_bias].into_iter().any(Vector::is_trained)
            || self.gate.norm().is_some_and(|norm| norm.trained(pass))
            || pass.trains(&self.in_proj)
    }

    /// Its tensors that belong to no linear and no norm.
    pub(super) fn own_tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        let of_heads =
            |name: &str, v| SmallTensor::whole(format!("{}.{name}", self.name), v, self.heads.count);
        let numbers = [("A_log", &self.a_log), ("D", &self.d), ("dt_bias", &self.dt_bias)];
        self.conv.tensors().chain(numbers.map(|(name, v)| of_heads(name, v)))
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        self.norm.iter().chain(self.gate.norm()).chain(&self.residual.norm)
    }

    /// The norms, mutable.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norm.iter_mut().chain(self.gate.norm_mut()).chain(&mut self.residual.norm)
    }

    /// What so many sequences carry on, before they begin.
    pub(super) fn states(&self, dev: &Device, sequences: usize) -> Vec<Tensor> {
        let state = self.width() * self.heads.state_dim;
        vec![self.conv.states(dev, sequences), dev.zeros(sequences, state)]
    }
}
