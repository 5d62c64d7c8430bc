//! The attention half of a layer: norm, q/k/v, norms of heads, rotation, attention, output projection onto the
//! residual stream.

use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::attention::{self, Heads};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Precision, Tensor};

use super::heads::{HeadTurn, Side, Turned};
use super::kv_cache::LayerCache;
use super::mixer::{Cached, Flow, StreamGradient};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor, Vector};
use super::pass::Pass;
use super::qkv::Qkv;
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
    /// Norms and rotation of the heads of q, k and v.
    pub turn: HeadTurn,
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
    /// Its layer, if later ones attend to its keys and values.
    pub gives: Option<usize>,
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

/// What the backward needs of the forward.
#[derive(Debug)]
pub struct AttentionSaved {
    x: SavedActivation,
    /// What the norm reads if there is one, after the rotation if not.
    q: Tensor,
    /// k likewise, and v, or what its norm reads; `None` where those of an earlier layer are used.
    kv: Option<(Tensor, SavedActivation)>,
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
        let kv = if a.takes_keys_of(layer).is_some() { 0 } else { kv };
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
        flow: &mut Flow<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<AttentionSaved>> {
        let (dev, tokens, rotation) = (pass.dev, flow.tokens, self.rotation(flow.rotations));
        let n = before(&self.norm, pass, x)?;
        let saved = pass.precision.saved();
        // A cache takes f32. In training the backward must see the very values that the forward multiplied; norms of
        // heads are computed again in the backward, from what was stored before them.
        let used = if cache.is_some() { DType::F32 } else { saved };
        let first = if self.turn.norm_first() { saved } else { DType::F32 };
        let first_v = if self.turn.v_norm.is_some() { saved } else { used };
        let (q, kv, h_qkv) = self.qkv.forward(pass, &n, self.heads, [first, first, first_v])?;
        drop(n);
        let (q, gate) = self.part_gate(pass, q)?;
        let q = self.turn.forward(pass, q, Side::Queries, rotation, used)?;
        let kv = match kv {
            Some([k, v]) => Some([
                self.turn.forward(pass, k, Side::Keys, rotation, used)?,
                self.turn.values(pass, v, used)?,
            ]),
            None => None,
        };
        if let Some((LayerCache::Keys { k: keys, v: values }, slots)) = cache {
            if let Some([k, v]) = &kv {
                elementwise::scatter(dev, &k.used, &slots.rows, keys)?;
                elementwise::scatter(dev, &v.used, &slots.rows, values)?;
            }
            let (mut o, _) = self.attend(pass, self.over(&q.used, keys, values, tokens))?;
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
        let [k, v] = self.keys(kv.as_ref(), flow);
        let (o, lse) = self.attend(pass, self.over(&q.used, k, v, tokens))?;
        let o = narrow(pass, o);
        let x_in = keep.map(|keep| (SavedActivation::copy_of(pass, x, keep), keep));
        let gate = gate.map(|gate| pass.stored(gate, saved));
        let out = through_gate(pass, gate.as_ref(), &o)?;
        let (h_o, residual) = self.residual.forward(pass, &out, &self.o_proj, x)?;
        drop(out);
        let (q, _) = q.part();
        let kv = kv.map(|kv| kv.map(Turned::part));
        let kv = kv.map(|[(k, k_used), (v, v_used)]| {
            if let Some(layer) = self.gives {
                let [k, v] = [(&k, k_used), (&v, v_used)]
                    .map(|(same, used)| used.unwrap_or_else(|| elementwise::cast(dev, same, same.dtype())));
                flow.shared.keep(layer, [k, v]);
            }
            (k, v)
        });
        Ok(x_in.map(|(x, keep)| {
            let o = SavedActivation::new(pass, o, keep);
            let gate = gate.map(|gate| SavedActivation::new(pass, gate, keep));
            let kv = kv.map(|(k, v)| (k, SavedActivation::new(pass, v, keep)));
            AttentionSaved { x, q, kv, o, lse, gate, h_qkv, h_o, residual }
        }))
    }

    /// The keys and values that are multiplied: those made here, or of the layer that they are taken from.
    fn keys<'k>(&self, own: Option<&'k [Turned; 2]>, flow: &'k Flow<'_>) -> [&'k Tensor; 2] {
        match (own, self.qkv.takes()) {
            (Some([k, v]), _) => [&k.used, &v.used],
            (None, Some(layer)) => flow.shared.of(layer).each_ref(),
            (None, None) => unreachable!("keys are made here or in an earlier layer"),
        }
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

    /// The rotation that it uses.
    fn rotation<'a>(&self, rotations: &'a [Rotation<'a>]) -> Option<&'a Rotation<'a>> {
        self.rotation.map(|i| &rotations[i])
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        s: AttentionSaved,
        stream: StreamGradient<'_>,
        flow: &mut Flow<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let StreamGradient { d_out, dx, need_dx } = stream;
        let (tokens, rotation) = (flow.tokens, self.rotation(flow.rotations));
        let need_dn = need_dx || self.norm.as_ref().is_some_and(|n| n.trained(pass));
        let normed = self.turn.norms().any(|n| n.trained(pass));
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
        let q = self.turn.again(pass, &s.q, Side::Queries, rotation)?;
        let kv = s.kv.map(|(k, v)| (k, v.take(pass)));
        let [k, v] = match (&kv, self.qkv.takes()) {
            (Some((k, v)), _) => {
                [self.turn.again(pass, k, Side::Keys, rotation)?, self.turn.values_again(pass, v)?]
            }
            (None, Some(layer)) => flow.shared.of(layer).each_ref().map(Shared::Of),
            (None, None) => unreachable!("keys are made here or in an earlier layer"),
        };
        let outputs = attention::Outputs { o: &o, lse: &s.lse, d_o: &d_o };
        self.sinks_backward(pass, outputs, grads)?;
        let (dq, dk, dv) = attention::backward(pass.ctx(), self.over(&q, &k, &v, tokens), outputs)?;
        drop((d_o, q, k, v, o));
        let dq = self.turn.backward(pass, &s.q, dq, Side::Queries, rotation, grads)?;
        drop(s.q);
        let dkv = match (kv, self.qkv.takes()) {
            (Some((k, v)), _) => {
                let mut d = [dk, dv];
                let later = self.gives.and_then(|layer| flow.shared.finish(layer));
                for (d, later) in d.iter_mut().zip(later.iter().flatten()) {
                    elementwise::add(pass.dev, d, later, 1.0)?;
                }
                let [dk, dv] = d;
                let dk = self.turn.backward(pass, &k, dk, Side::Keys, rotation, grads)?;
                Some([dk, self.turn.values_backward(pass, &v, dv, rotation.is_some())?])
            }
            (None, Some(layer)) => {
                flow.shared.add(pass.dev, layer, [dk, dv])?;
                None
            }
            (None, None) => None,
        };
        let dq = self.join_gate(pass, dq, d_gate)?;
        let x = s.x.take(pass);
        let n = before(&self.norm, pass, &x)?;
        let dn = self.qkv.backward(pass, &n, s.h_qkv.as_ref(), (dq, dkv), need_dn, grads)?;
        drop(n);
        before_backward(&self.norm, pass, &x, dn, dx, grads)
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
        self.norm.iter().chain(self.turn.norms()).chain(&self.residual.norm)
    }

    /// The norms, mutable.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.norm.iter_mut().chain(self.turn.norms_mut()).chain(&mut self.residual.norm)
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
