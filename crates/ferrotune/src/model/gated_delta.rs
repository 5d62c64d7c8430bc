//! The gated delta rule of Qwen3-Next and Qwen3.5: norm, projections to q, k, v, an output gate and the gates of the
//! recurrence; a short convolution over q, k and v; the recurrence; its output normed by heads and gated; output projection
//! onto the residual stream.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::causal_conv::{self, Around};
use ferrotune_kernels::ops::decay::{self, Gates};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::gated_delta::{self, Heads, Rule};
use ferrotune_kernels::{DType, Device, Precision, Tensor};

use super::conv_taps::ConvTaps;
use super::kv_cache::states;
use super::mixer::{Cached, StreamGradient};
use super::norm::{FixedNorm, Norm};
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor, Vector};
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, before, before_backward, narrow};
use super::saved::{Keep, SavedActivation};
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture as arch;
use crate::arch::architecture::Architecture;

/// The gated delta rule of one layer.
#[derive(Debug)]
pub struct GatedDelta {
    /// `input_layernorm`.
    pub norm: Option<Norm>,
    /// The projections.
    pub input: DeltaInput,
    /// `linear_attn.conv1d`, over the channels of q, k and v.
    pub conv: ConvTaps,
    /// `linear_attn.A_log` `[1, Hv]`.
    pub a_log: Vector,
    /// `linear_attn.dt_bias` `[1, Hv]`.
    pub dt_bias: Vector,
    /// `linear_attn.norm`, of each head's output.
    pub out_norm: Norm,
    /// `linear_attn.out_proj`.
    pub out_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
    /// Heads.
    pub heads: Heads,
    /// Makes heads of q and k ones of length 1: `x / sqrt(sum x^2 + 1e-6)`.
    pub unit: FixedNorm,
    /// Module path, `model.layers.0.linear_attn`.
    pub name: String,
}

/// Projections to q, k, v; the output gate `z`; `b` and `a` of the recurrence's gates.
#[derive(Debug)]
pub enum DeltaInput {
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a` (Qwen3.5).
    Separate(Box<[LinearLayer; 4]>),
    /// `in_proj_qkvz` and `in_proj_ba` (Qwen3-Next): all that belongs to one key head stands together.
    ByKeyHead(Box<[LinearLayer; 2]>, Heads),
}

/// What the projections give, or its gradient.
struct Projected {
    qkv: Tensor,
    z: Tensor,
    b: Tensor,
    a: Tensor,
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct GatedDeltaSaved {
    x: SavedActivation,
    qkv: SavedActivation,
    z: SavedActivation,
    b: Tensor,
    a: Tensor,
    o: SavedActivation,
    h_in: Option<Tensor>,
    h_out: Option<Tensor>,
    residual: ResidualSaved,
}

impl GatedDeltaSaved {
    /// Bytes that a token takes in it, without those of branches.
    pub(super) fn bytes_per_token(
        a: &Architecture,
        delta: &arch::GatedDelta,
        precision: Precision,
        keep: Keep,
    ) -> usize {
        let waiting = a.hidden + delta.channels() + 2 * delta.value_width();
        SavedActivation::nbytes(waiting, precision, keep)
            + 2 * delta.value_heads * 4
            + ResidualSaved::bytes_per_token(a, precision)
    }
}

impl DeltaInput {
    /// The linears.
    pub fn linears(&self) -> &[LinearLayer] {
        match self {
            DeltaInput::Separate(four) => &four[..],
            DeltaInput::ByKeyHead(two, _) => &two[..],
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> &mut [LinearLayer] {
        match self {
            DeltaInput::Separate(four) => &mut four[..],
            DeltaInput::ByKeyHead(two, _) => &mut two[..],
        }
    }

    fn forward(&self, pass: &Pass<'_>, n: &Tensor, dtype: DType) -> Result<(Projected, Option<Tensor>)> {
        match self {
            DeltaInput::Separate(four) => {
                let dtypes = [dtype, dtype, DType::F32, DType::F32];
                let ([qkv, z, b, a], h) = pass.linears_as(n, four.each_ref(), dtypes)?;
                Ok((Projected { qkv, z, b, a }, h))
            }
            DeltaInput::ByKeyHead(two, heads) => {
                let heads = *heads;
                let ([qkvz, ba], h) = pass.linears_as(n, two.each_ref(), [dtype, DType::F32])?;
                let [q, k, v, z] = of_key_heads(pass, qkvz, heads, widths(heads))?;
                let [b, a] = of_key_heads(pass, ba, heads, [heads.v / heads.k; 2])?;
                let qkv = elementwise::join(pass.dev, &[&q, &k, &v])?;
                Ok((Projected { qkv, z, b, a }, h))
            }
        }
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        h: Option<&Tensor>,
        d: Projected,
        need_dn: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let Projected { qkv, z, b, a } = d;
        match self {
            DeltaInput::Separate(four) => {
                pass.linears_backward(n, h, four.each_ref(), [&qkv, &z, &b, &a], need_dn, grads)
            }
            DeltaInput::ByKeyHead(two, heads) => {
                let heads = *heads;
                let [q, k, v] = split_qkv(pass, &qkv, heads)?;
                let qkvz = to_key_heads(pass, [q, k, v, pass.stored(z, qkv.dtype())], heads)?;
                let ba = to_key_heads(pass, [b, a], heads)?;
                pass.linears_backward(n, h, two.each_ref(), [&qkvz, &ba], need_dn, grads)
            }
        }
    }
}

/// Values of q, k, v and z that belong to a key head.
fn widths(heads: Heads) -> [usize; 4] {
    let value = heads.v / heads.k * heads.value_dim;
    [heads.key_dim, heads.key_dim, value, value]
}

/// Parts of these widths that stand together for every key head, each for itself.
fn of_key_heads<const N: usize>(
    pass: &Pass<'_>,
    all: Tensor,
    heads: Heads,
    widths: [usize; N],
) -> Result<[Tensor; N]> {
    let all = all.with_columns(widths.iter().sum());
    let mut parts = Vec::with_capacity(N);
    let mut at = 0;
    for width in widths {
        let part = elementwise::columns(pass.dev, &all, at..at + width)?;
        parts.push(part.with_columns(heads.k * width));
        at += width;
    }
    Ok(parts.try_into().unwrap_or_else(|_| unreachable!("a part for each width")))
}

/// The other way.
fn to_key_heads<const N: usize>(pass: &Pass<'_>, parts: [Tensor; N], heads: Heads) -> Result<Tensor> {
    let all = parts.iter().map(Tensor::cols).sum();
    let parts = parts.map(|part| {
        let width = part.cols() / heads.k;
        part.with_columns(width)
    });
    Ok(elementwise::join(pass.dev, &parts.each_ref())?.with_columns(all))
}

/// q, k and v, which stand side by side.
fn split_qkv(pass: &Pass<'_>, qkv: &Tensor, heads: Heads) -> Result<[Tensor; 3]> {
    let (k, all) = (heads.k * heads.key_dim, qkv.cols());
    let part = |range| elementwise::columns(pass.dev, qkv, range);
    Ok([part(0..k)?, part(k..2 * k)?, part(2 * k..all)?])
}

impl GatedDelta {
    /// What the recurrence reads for what the projections gave: q and k as the convolution gave them, then q and k of length
    /// 1, v, and its gates.
    fn before_recurrence(
        &self,
        pass: &Pass<'_>,
        qkv: &Tensor,
        [b, a]: [&Tensor; 2],
        tokens: Tokens<'_>,
        states: Option<causal_conv::States<'_>>,
        dtype: DType,
    ) -> Result<([Tensor; 2], [Tensor; 3], [Tensor; 2])> {
        let conv = self.conv.over(pass, qkv, Around::Silu, tokens);
        let mixed = causal_conv::forward(pass.dev, conv, states, dtype)?;
        let [q, k, v] = split_qkv(pass, &mixed, self.heads)?;
        drop(mixed);
        let (q_unit, k_unit) = (self.unit.forward(pass, &q, dtype)?, self.unit.forward(pass, &k, dtype)?);
        let (g, beta) = decay::forward(pass.dev, self.gates(pass, b, a))?;
        Ok(([q, k], [q_unit, k_unit, v], [g, beta]))
    }

    fn gates<'a>(&'a self, pass: &Pass<'a>, b: &'a Tensor, a: &'a Tensor) -> Gates<'a> {
        Gates { a, b, a_log: pass.vector(&self.a_log), dt_bias: pass.vector(&self.dt_bias) }
    }

    fn recurrence<'a>(
        &self,
        [q, k, v]: &'a [Tensor; 3],
        [g, beta]: &'a [Tensor; 2],
        tokens: Tokens<'a>,
    ) -> gated_delta::GatedDelta<'a> {
        let (segments, heads) = (tokens.segments, self.heads);
        gated_delta::GatedDelta { q, k, v, g, beta, segments, rule: Rule::Delta, heads }
    }

    /// Adds the recurrence over `x` to `x`; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<GatedDeltaSaved>> {
        let n = before(&self.norm, pass, x)?;
        let saved = pass.precision.saved();
        let used = if cache.is_some() { DType::F32 } else { saved };
        let (Projected { qkv, z, b, a }, h_in) = self.input.forward(pass, &n, used)?;
        drop(n);
        let mut states = states(cache);
        let conv_states =
            states.as_mut().map(|([rows, _], sequences)| causal_conv::States { rows, sequences });
        let (_, qkv_in, gates) = self.before_recurrence(pass, &qkv, [&b, &a], tokens, conv_states, used)?;
        let delta = self.recurrence(&qkv_in, &gates, tokens);
        let o = match states {
            Some(([_, state], sequences)) => gated_delta::forward_cached(pass.dev, delta, state, sequences)?,
            None => gated_delta::forward(pass.dev, delta)?,
        };
        drop((qkv_in, gates));
        let o = if used == saved { narrow(pass, o) } else { o };
        let y = self.gated(pass, &o, &z, used)?;
        let x_in = keep.map(|keep| (SavedActivation::copy_of(pass, x, keep), keep));
        let (h_out, residual) = self.residual.forward(pass, &y, &self.out_proj, x)?;
        drop(y);
        Ok(x_in.map(|(x, keep)| {
            let [qkv, z, o] = [qkv, z, o].map(|t| SavedActivation::new(pass, t, keep));
            GatedDeltaSaved { x, qkv, z, b, a, o, h_in, h_out, residual }
        }))
    }

    /// `silu(z) * norm(o)`.
    fn gated(&self, pass: &Pass<'_>, o: &Tensor, z: &Tensor, dtype: DType) -> Result<Tensor> {
        let normed = self.out_norm.forward(pass, o, z.dtype())?;
        Ok(activation::gated(pass.dev, Activation::Silu, z, &normed, dtype)?)
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: GatedDeltaSaved,
        stream: StreamGradient<'_>,
        tokens: Tokens<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let StreamGradient { d_out, dx, need_dx } = stream;
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let saved = pass.precision.saved();
        let d = self.residual.backward(pass, &s.residual, d_out.unwrap_or(dx), grads)?;
        let (o, z) = (s.o.take(pass), s.z.take(pass));
        let y = self.gated(pass, &o, &z, saved)?;
        let below = need_dn || self.trains_inside(pass);
        let dy = pass.linears_backward(&y, s.h_out.as_ref(), [&self.out_proj], [&*d], below, grads)?;
        drop((d, y));
        let Some(dy) = dy else { return Ok(()) };
        let normed = self.out_norm.forward(pass, &o, z.dtype())?;
        let (dz, d_normed) =
            activation::gated_backward(pass.dev, Activation::Silu, &z, &normed, &dy, DType::F32)?;
        drop((dy, normed, z));
        let mut d_o = pass.dev.zeros(o.rows(), o.cols());
        self.out_norm.backward(pass, &o, &d_normed, &mut d_o, grads)?;
        drop((d_normed, o));
        let qkv = s.qkv.take(pass);
        let (raw, qkv_in, gates) = self.before_recurrence(pass, &qkv, [&s.b, &s.a], tokens, None, saved)?;
        let delta = self.recurrence(&qkv_in, &gates, tokens);
        let gated_delta::Gradients { dq, dk, dv, dg, dbeta } = gated_delta::backward(pass.dev, delta, &d_o)?;
        drop((d_o, qkv_in, gates));
        let (dq, dk) = (self.unit.backward(pass, &raw[0], &dq)?, self.unit.backward(pass, &raw[1], &dk)?);
        drop(raw);
        let d_mixed = elementwise::join(pass.dev, &[&dq, &dk, &dv])?;
        drop((dq, dk, dv));
        let conv = self.conv.over(pass, &qkv, Around::Silu, tokens);
        let d_qkv = self.conv.backward(pass, conv, &d_mixed, saved, grads)?;
        drop((d_mixed, qkv));
        let (da, db) = self.gates_backward(pass, &s.b, &s.a, &dg, &dbeta, grads)?;
        let d = Projected { qkv: d_qkv, z: pass.stored(dz, saved), b: db, a: da };
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let dn = self.input.backward(pass, &n, s.h_in.as_ref(), d, need_dn, grads)?;
        drop(n);
        before_backward(&self.norm, pass, &x, dn, dx, grads)
    }

    /// The gradients of `a` and `b`; those of `A_log` and `dt_bias` are summed if they are trained.
    fn gates_backward(
        &self,
        pass: &Pass<'_>,
        b: &Tensor,
        a: &Tensor,
        dg: &Tensor,
        dbeta: &Tensor,
        grads: &mut Gradients,
    ) -> Result<(Tensor, Tensor)> {
        let ids = [&self.a_log, &self.dt_bias].map(Vector::trained);
        let [mut a_log, mut dt_bias] = grads.take_all(ids);
        let sinks = decay::Grads { a_log: a_log.as_mut(), dt_bias: dt_bias.as_mut() };
        let both = decay::backward(pass.dev, self.gates(pass, b, a), dg, dbeta, sinks);
        grads.put_back(ids, [a_log, dt_bias]);
        Ok(both?)
    }

    /// Whether something before the output projection is trained, without the norm of the input.
    fn trains_inside(&self, pass: &Pass<'_>) -> bool {
        self.conv.trains()
            || self.a_log.is_trained()
            || self.dt_bias.is_trained()
            || self.out_norm.trained(pass)
            || self.input.linears().iter().any(|l| pass.trains(l))
    }

    /// Its tensors that belong to no linear and no norm.
    pub(super) fn own_tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        let gate =
            |name: &str, values| SmallTensor::whole(format!("{}.{name}", self.name), values, self.heads.v);
        self.conv.tensors().chain([gate("A_log", &self.a_log), gate("dt_bias", &self.dt_bias)])
    }

    /// What so many sequences carry on, before they begin.
    pub(super) fn states(&self, dev: &Device, sequences: usize) -> Vec<Tensor> {
        let Heads { v, key_dim, value_dim, .. } = self.heads;
        vec![self.conv.states(dev, sequences), dev.zeros(sequences, v * key_dim * value_dim)]
    }
}
