//! The attention half of a layer: norm, q/k/v, norms of heads, rotation, attention, output projection onto the
//! residual stream.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::attention::{self, Heads};
use ferrotune_kernels::ops::rms_norm::{self, RmsNorm};
use ferrotune_kernels::ops::rope::Turn;
use ferrotune_kernels::ops::{elementwise, rope};
use ferrotune_kernels::{DType, Precision, Tensor};

use super::kv_cache::LayerCache;
use super::mixer::{Cached, Flow, StreamGradient};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor, Vector};
use super::pass::Pass;
use super::residual::{Residual, ResidualSaved, Shared, before, before_backward, narrow};
use super::rope::Rotation;
use super::saved::{Keep, SavedActivation};
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture::Architecture;

/// Attention of one layer.
#[derive(Debug)]
pub struct Attention {
    /// `input_layernorm`.
    pub norm: Option<Norm>,
    /// The projections to q, k and v.
    pub qkv: Qkv,
    /// Norms of q and k.
    pub qk_norm: Option<QkNorms>,
    /// The norm of v.
    pub v_norm: Option<ValueNorm>,
    /// Whether `q_proj` also gives a gate: the heads' outputs are multiplied by its sigmoid. A head's gate stands behind its
    /// query.
    pub gated: bool,
    /// One further logit of each head in the softmax, `self_attn.sinks` `[1, H]`.
    pub sinks: Option<Sinks>,
    /// `self_attn.o_proj`.
    pub o_proj: LinearLayer,
    /// How the output joins the stream.
    pub residual: Residual,
    /// Heads, scale and window.
    pub heads: Heads,
    /// Which rotation of the pass is used.
    pub rotation: Option<usize>,
}

/// Attention sinks under their checkpoint name.
#[derive(Debug)]
pub struct Sinks {
    /// `model.layers.0.self_attn.sinks`.
    pub name: String,
    /// `[1, H]`.
    pub values: Vector,
}

/// Norms of q and of k.
#[derive(Debug)]
pub struct QkNorms {
    /// That of q.
    pub q: Norm,
    /// That of k.
    pub k: Norm,
    /// After the rotation, not before it.
    pub after_rotation: bool,
}

impl QkNorms {
    fn both(&self) -> [&Norm; 2] {
        [&self.q, &self.k]
    }

    fn of(&self, side: Side) -> &Norm {
        match side {
            Side::Queries => &self.q,
            Side::Keys => &self.k,
        }
    }
}

/// A norm of the heads of v that has no weight.
#[derive(Debug)]
pub struct ValueNorm {
    /// Ones `[1, head_dim]`.
    pub unit: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

impl ValueNorm {
    fn op(&self) -> RmsNorm {
        RmsNorm { width: self.unit.cols(), eps: self.eps, offset: 0.0 }
    }

    fn forward(&self, pass: &Pass<'_>, v: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(rms_norm::forward(pass.dev, v, &self.unit, self.op(), dtype)?)
    }

    fn backward(&self, pass: &Pass<'_>, v: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dv = pass.dev.zeros(v.rows(), v.cols());
        rms_norm::backward(pass.dev, v, &self.unit, self.op(), dy, &mut dv, None)?;
        Ok(dv)
    }
}

/// Queries or keys, which go the same way from the projection to the scores.
#[derive(Clone, Copy)]
enum Side {
    Queries,
    Keys,
}

impl Side {
    fn turn<'r>(self, r: &'r Rotation<'_>) -> Turn<'r> {
        match self {
            Side::Queries => r.of_queries(),
            Side::Keys => r.of_keys(),
        }
    }
}

/// Projections to q, k and v.
#[derive(Debug)]
pub enum Qkv {
    /// `q_proj`, `k_proj`, `v_proj`.
    Separate(Box<[LinearLayer; 3]>),
    /// `q_proj` and `k_proj`; what the second gives is v too.
    Keyed(Box<[LinearLayer; 2]>),
    /// `qkv_proj`: the rows of q, then of k, then of v.
    Fused(Box<LinearLayer>),
}

impl Qkv {
    /// The linears.
    pub fn linears(&self) -> &[LinearLayer] {
        match self {
            Qkv::Separate(three) => &three[..],
            Qkv::Keyed(two) => &two[..],
            Qkv::Fused(one) => std::slice::from_ref(one),
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> &mut [LinearLayer] {
        match self {
            Qkv::Separate(three) => &mut three[..],
            Qkv::Keyed(two) => &mut two[..],
            Qkv::Fused(one) => std::slice::from_mut(one),
        }
    }

    fn forward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        heads: Heads,
        dtypes: [DType; 3],
    ) -> Result<([Tensor; 3], Option<Tensor>)> {
        match self {
            Qkv::Separate(three) => pass.linears_as(n, three.each_ref(), dtypes),
            Qkv::Keyed(two) => {
                let ([q, k], h) = pass.linears_as(n, two.each_ref(), [dtypes[0], dtypes[1]])?;
                let v = elementwise::cast(pass.dev, &k, dtypes[2]);
                Ok(([q, k, v], h))
            }
            Qkv::Fused(one) => {
                let ([all], h) = pass.linears(n, [&**one], DType::F32)?;
                let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
                let part = |range, dtype| -> Result<Tensor> {
                    Ok(pass.stored(elementwise::columns(pass.dev, &all, range)?, dtype))
                };
                let (k_end, v_end) = (q + kv, q + 2 * kv);
                let parts =
                    [part(0..q, dtypes[0])?, part(q..k_end, dtypes[1])?, part(k_end..v_end, dtypes[2])?];
                Ok((parts, h))
            }
        }
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        n: &Tensor,
        h: Option<&Tensor>,
        [dq, dk, dv]: [Tensor; 3],
        need_dn: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        match self {
            Qkv::Separate(three) => {
                pass.linears_backward(n, h, three.each_ref(), [&dq, &dk, &dv], need_dn, grads)
            }
            Qkv::Keyed(two) => {
                let mut both = pass.stored(dk, DType::F32);
                elementwise::add(pass.dev, &mut both, &dv, 1.0)?;
                pass.linears_backward(n, h, two.each_ref(), [&dq, &both], need_dn, grads)
            }
            Qkv::Fused(one) => {
                let all = elementwise::join(pass.dev, &[&dq, &dk, &dv])?;
                pass.linears_backward(n, h, [&**one], [&all], need_dn, grads)
            }
        }
    }
}

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct AttentionSaved {
    x: SavedActivation,
    /// What the norm reads if there is one, after the rotation if not.
    q: Tensor,
    k: Tensor,
    /// What its norm reads if there is one.
    v: SavedActivation,
    o: SavedActivation,
    lse: Tensor,
    gate: Option<SavedActivation>,
    h_qkv: Option<Tensor>,
    h_o: Option<Tensor>,
    residual: ResidualSaved,
}

impl AttentionSaved {
    /// Bytes that a token takes in it, without those of branches.
    pub(super) fn bytes_per_token(a: &Architecture, layer: usize, precision: Precision, keep: Keep) -> usize {
        let (q, kv) = a.qk_width(layer);
        let gate = if a.attention_gate { q } else { 0 };
        let waiting = SavedActivation::nbytes(a.hidden + kv + q + gate, precision, keep);
        let lse = a.heads * 4;
        waiting + (q + kv) * precision.saved().size() + lse + ResidualSaved::bytes_per_token(a, precision)
    }
}

impl Attention {
    /// Adds the attention of `x` to `x`; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        flow: Flow<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<AttentionSaved>> {
        let (dev, tokens, rotation) = (pass.dev, flow.tokens, self.rotation(flow));
        let n = before(&self.norm, pass, x)?;
        let saved = pass.precision.saved();
        // A cache takes f32. In training the backward must see the very values that the forward multiplied; norms of
        // heads are computed again in the backward, from what was stored before them.
        let used = if cache.is_some() { DType::F32 } else { saved };
        let first = if self.normed_before_rotation() { saved } else { DType::F32 };
        let first_v = if self.v_norm.is_some() { saved } else { used };
        let ([q, k, v], h_qkv) = self.qkv.forward(pass, &n, self.heads, [first, first, first_v])?;
        drop(n);
        let (q, gate) = self.part_gate(pass, q)?;
        let (q_in, q) = self.to_heads(pass, q, Side::Queries, rotation, used)?;
        let (k_in, k) = self.to_heads(pass, k, Side::Keys, rotation, used)?;
        let (v_in, v) = match &self.v_norm {
            Some(norm) => {
                let normed = norm.forward(pass, &v, used)?;
                (Some(v), normed)
            }
            None => (None, v),
        };
        if let Some((LayerCache::Keys { k: keys, v: values }, slots)) = cache {
            elementwise::scatter(dev, &k, &slots.rows, keys)?;
            elementwise::scatter(dev, &v, &slots.rows, values)?;
            let (mut o, _) = self.attend(pass, self.over(&q, keys, values, tokens))?;
            if let Some(gate) = gate {
                o = activation::gated(
                    dev,
                    Activation::Sigmoid,
                    &pass.stored(gate, DType::F32),
                    &o,
                    DType::F32,
                )?;
            }
            self.residual.forward(pass, &o, &self.o_proj, x)?;
            return Ok(None);
        }
        let (o, lse) = self.attend(pass, self.over(&q, &k, &v, tokens))?;
        let o = narrow(pass, o);
        let x_in = keep.map(|keep| (SavedActivation::copy_of(pass, x, keep), keep));
        let gate = gate.map(|gate| pass.stored(gate, saved));
        let out = through_gate(pass, gate.as_ref(), &o)?;
        let (h_o, residual) = self.residual.forward(pass, &out, &self.o_proj, x)?;
        drop(out);
        let [q, k, v] = [(q_in, q), (k_in, k), (v_in, v)].map(|(first, used)| first.unwrap_or(used));
        Ok(x_in.map(|(x, keep)| {
            let [v, o] = [v, o].map(|t| SavedActivation::new(pass, t, keep));
            let gate = gate.map(|gate| SavedActivation::new(pass, gate, keep));
            AttentionSaved { x, q, k, v, o, lse, gate, h_qkv, h_o, residual }
        }))
    }

    /// Outputs of the heads and the sums of their softmax.
    fn attend(&self, pass: &Pass<'_>, x: attention::Attention<'_>) -> Result<(Tensor, Tensor)> {
        let (mut o, mut lse) = attention::forward(pass.ctx(), x)?;
        if let Some(sinks) = &self.sinks {
            attention::add_sinks(pass.dev, &mut o, &mut lse, pass.vector(&sinks.values))?;
        }
        Ok((o, lse))
    }

    /// The gradient of sinks that are trained.
    fn sinks_backward(
        &self,
        pass: &Pass<'_>,
        outputs: attention::Outputs<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let Some((sinks, id)) = self.sinks.as_ref().and_then(|s| Some((&s.values, s.values.trained()?)))
        else {
            return Ok(());
        };
        let Some(mut sum) = grads.take(id) else { return Ok(()) };
        let attention::Outputs { o, lse, d_o } = outputs;
        let done = attention::sinks_backward(pass.vector(sinks), o, lse, d_o, &mut sum);
        grads.put(id, sum);
        Ok(done?)
    }

    /// Queries and gates, if the projection gave both.
    fn part_gate(&self, pass: &Pass<'_>, q: Tensor) -> Result<(Tensor, Option<Tensor>)> {
        if !self.gated {
            return Ok((q, None));
        }
        let (d, all) = (self.heads.dim, self.heads.q * self.heads.dim);
        let both = q.with_columns(2 * d);
        let part =
            |range| -> Result<Tensor> { Ok(elementwise::columns(pass.dev, &both, range)?.with_columns(all)) };
        Ok((part(0..d)?, Some(part(d..2 * d)?)))
    }

    /// The gradient of what the projection gave, for those of queries and gates.
    fn join_gate(&self, pass: &Pass<'_>, dq: Tensor, d_gate: Option<Tensor>) -> Result<Tensor> {
        let Some(d_gate) = d_gate else { return Ok(dq) };
        let d_gate = pass.stored(d_gate, dq.dtype());
        let (d, all) = (self.heads.dim, 2 * self.heads.q * self.heads.dim);
        let both = elementwise::join(pass.dev, &[&dq.with_columns(d), &d_gate.with_columns(d)])?;
        Ok(both.with_columns(all))
    }

    /// The op that is behind it, over these values.
    fn over<'a>(
        &self,
        q: &'a Tensor,
        k: &'a Tensor,
        v: &'a Tensor,
        tokens: Tokens<'a>,
    ) -> attention::Attention<'a> {
        attention::Attention { q, k, v, segments: tokens.segments, heads: self.heads }
    }

    fn rotate(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<Tensor> {
        let Some(r) = rotation else { return Ok(pass.stored(x, dtype)) };
        Ok(rope::forward(pass.dev, x, self.heads.dim, r.rows(), side.turn(r), dtype)?)
    }

    /// What is multiplied for what the projection gave, and, if there is a norm, what it reads.
    fn to_heads(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<(Option<Tensor>, Tensor)> {
        let Some(norms) = &self.qk_norm else {
            return Ok((None, self.rotate(pass, x, side, rotation, dtype)?));
        };
        let x = match norms.after_rotation {
            true => self.rotate(pass, x, side, rotation, pass.precision.saved())?,
            false => x,
        };
        let heads = self.normed(pass, norms, &x, side, rotation, dtype)?;
        Ok((Some(x), heads))
    }

    /// What is multiplied for what the norm reads.
    fn normed(
        &self,
        pass: &Pass<'_>,
        norms: &QkNorms,
        x: &Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        dtype: DType,
    ) -> Result<Tensor> {
        let norm = norms.of(side);
        match norms.after_rotation {
            true => norm.forward(pass, x, dtype),
            false => self.rotate(pass, norm.forward(pass, x, DType::F32)?, side, rotation, dtype),
        }
    }

    /// The gradient of what the projection gave for that of what was multiplied; `x` waited for it.
    fn to_heads_backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        mut d: Tensor,
        side: Side,
        rotation: Option<&Rotation<'_>>,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        if let Some(norms) = self.qk_norm.as_ref().filter(|norms| norms.after_rotation) {
            d = through(norms.of(side), pass, x, &d, grads)?;
        }
        if let Some(r) = rotation {
            d = rope::backward(pass.dev, d, self.heads.dim, r.rows(), side.turn(r), self.next(pass))?;
        }
        if let Some(norms) = self.qk_norm.as_ref().filter(|norms| !norms.after_rotation) {
            d = through(norms.of(side), pass, x, &d, grads)?;
        }
        Ok(d)
    }

    /// The type of the gradients behind the rotation: the projections read them next, unless there are norms.
    fn next(&self, pass: &Pass<'_>) -> DType {
        if self.normed_before_rotation() { DType::F32 } else { pass.precision.saved() }
    }

    /// The rotation that it uses.
    fn rotation<'a>(&self, flow: Flow<'a>) -> Option<&'a Rotation<'a>> {
        self.rotation.map(|i| &flow.rotations[i])
    }

    fn normed_before_rotation(&self) -> bool {
        self.qk_norm.as_ref().is_some_and(|norms| !norms.after_rotation)
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: AttentionSaved,
        stream: StreamGradient<'_>,
        flow: Flow<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let StreamGradient { d_out, dx, need_dx } = stream;
        let (tokens, rotation) = (flow.tokens, self.rotation(flow));
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let normed = self.qk_norm.iter().flat_map(QkNorms::both).any(|n| n.trained(pass));
        let sinks = self.sinks.as_ref().is_some_and(|sinks| sinks.values.is_trained());
        let below = need_dn || normed || sinks || self.qkv.linears().iter().any(|l| pass.trains(l));
        let d = self.residual.backward(pass, &s.residual, d_out.unwrap_or(dx), grads)?;
        let (o, gate) = (s.o.take(pass), s.gate.map(|gate| gate.take(pass)));
        let out = through_gate(pass, gate.as_ref(), &o)?;
        let d_out = pass.linears_backward(&out, s.h_o.as_ref(), [&self.o_proj], [&*d], below, grads)?;
        drop((d, out));
        let Some(mut d_o) = d_out else { return Ok(()) };
        let mut d_gate = None;
        if let Some(gate) = &gate {
            let act = Activation::Sigmoid;
            let (dg, d_up) = activation::gated_backward(pass.dev, act, gate, &o, &d_o, DType::F32)?;
            (d_gate, d_o) = (Some(dg), d_up);
        }
        drop(gate);
        let saved = pass.precision.saved();
        let again = match &self.qk_norm {
            Some(norms) => Some([
                self.normed(pass, norms, &s.q, Side::Queries, rotation, saved)?,
                self.normed(pass, norms, &s.k, Side::Keys, rotation, saved)?,
            ]),
            None => None,
        };
        let [q, k] = again.as_ref().map_or([&s.q, &s.k], |both| both.each_ref());
        let v_in = s.v.take(pass);
        let v = match &self.v_norm {
            Some(norm) => Shared::Own(norm.forward(pass, &v_in, saved)?),
            None => Shared::Of(&v_in),
        };
        let outputs = attention::Outputs { o: &o, lse: &s.lse, d_o: &d_o };
        self.sinks_backward(pass, outputs, grads)?;
        let (dq, dk, mut dv) = attention::backward(pass.ctx(), self.over(q, k, &v, tokens), outputs)?;
        drop((d_o, again, v, o));
        let dq = self.to_heads_backward(pass, &s.q, dq, Side::Queries, rotation, grads)?;
        let dk = self.to_heads_backward(pass, &s.k, dk, Side::Keys, rotation, grads)?;
        if let Some(norm) = &self.v_norm {
            dv = norm.backward(pass, &v_in, &dv)?;
        }
        if rotation.is_some() {
            dv = pass.stored(dv, self.next(pass));
        }
        drop((s.q, s.k, v_in));
        let dq = self.join_gate(pass, dq, d_gate)?;
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let dn = self.qkv.backward(pass, &n, s.h_qkv.as_ref(), [dq, dk, dv], need_dn, grads)?;
        drop(n);
        if let Some(dn) = dn {
            before_backward(&self.norm, pass, &x, &dn, dx, grads)?;
        }
        Ok(())
    }

    /// Its tensors that belong to no linear and no norm.
    pub(super) fn own_tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        self.sinks.iter().map(|s| SmallTensor::whole(s.name.clone(), &s.values, self.heads.q))
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        self.qkv.linears().iter().chain([&self.o_proj])
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        self.qkv.linears_mut().iter_mut().chain([&mut self.o_proj])
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let heads = self.qk_norm.iter().flat_map(QkNorms::both);
        self.norm.iter().chain(heads).chain(&self.residual.norm)
    }

    /// The norms, mutable.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        let heads = self.qk_norm.iter_mut().flat_map(|norms| [&mut norms.q, &mut norms.k]);
        self.norm.iter_mut().chain(heads).chain(&mut self.residual.norm)
    }
}

/// The heads' outputs, multiplied by the sigmoid of the gate if there is one.
fn through_gate<'o>(pass: &Pass<'_>, gate: Option<&Tensor>, o: &'o Tensor) -> Result<Shared<'o>> {
    Ok(match gate {
        Some(gate) => {
            Shared::Own(activation::gated(pass.dev, Activation::Sigmoid, gate, o, pass.precision.saved())?)
        }
        None => Shared::Of(o),
    })
}

/// The gradient of a norm's input.
fn through(norm: &Norm, pass: &Pass<'_>, x: &Tensor, dy: &Tensor, grads: &mut Gradients) -> Result<Tensor> {
    let mut dx = pass.dev.zeros(x.rows(), x.cols());
    norm.backward(pass, x, dy, &mut dx, grads)?;
    Ok(dx)
}
