//! The half of a layer in which tokens meet: attention, or one of the cheaper ways.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Device, Precision, Tensor};

use super::attention::{Attention, AttentionSaved};
use super::gated_delta::{GatedDelta, GatedDeltaSaved};
use super::kv_cache::{LayerCache, Slots};
use super::mamba2::{Mamba2, Mamba2Saved};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor};
use super::pass::Pass;
use super::rope::Rotation;
use super::saved::Keep;
use super::shared_keys::SharedKeys;
use super::short_conv::{ShortConv, ShortConvSaved};
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture::{Architecture, Mixing};

/// What mixes the tokens of a layer, with its norms.
#[derive(Debug)]
pub enum Mixer {
    /// Softmax attention.
    Attention(Attention),
    /// A short convolution between gates.
    ShortConv(ShortConv),
    /// The gated delta rule.
    GatedDelta(GatedDelta),
    /// Mamba-2.
    Mamba2(Mamba2),
    /// Two that read the same input, through the same norm; their outputs are added to it together.
    Both(Box<(Attention, Mamba2)>),
}

/// What its backward needs.
#[derive(Debug)]
pub enum MixerSaved {
    /// What attention keeps.
    Attention(AttentionSaved),
    /// What a short convolution keeps.
    ShortConv(ShortConvSaved),
    /// What the gated delta rule keeps.
    GatedDelta(GatedDeltaSaved),
    /// What Mamba-2 keeps.
    Mamba2(Mamba2Saved),
    /// What both keep.
    Both(Box<(AttentionSaved, Mamba2Saved)>),
}

/// The tokens of a pass and what was computed for all layers.
pub struct Flow<'a> {
    /// The tokens.
    pub tokens: Tokens<'a>,
    /// The rotations of [`Decoder::ropes`](super::decoder::Decoder::ropes).
    pub rotations: &'a [Rotation<'a>],
    /// Keys and values that several layers use.
    pub shared: &'a mut SharedKeys,
}

/// A layer's cache, and where the pass's tokens go in it.
pub type Cached<'a> = (&'a mut LayerCache, &'a Slots);

/// The gradient of the residual stream at a layer.
pub struct StreamGradient<'t> {
    /// The gradient of the output, where `dx` is not that (attention beside the MLP).
    pub d_out: Option<&'t Tensor>,
    /// The gradient of the output, to which the gradient of the input is added.
    pub dx: &'t mut Tensor,
    /// Whether anything below needs it.
    pub need_dx: bool,
}

impl MixerSaved {
    /// Bytes that a token takes in it, without those of branches.
    pub(super) fn bytes_per_token(a: &Architecture, layer: usize, precision: Precision, keep: Keep) -> usize {
        match &a.mixers[layer] {
            Mixing::Attention => AttentionSaved::bytes_per_token(a, layer, precision, keep),
            Mixing::ShortConv(_) => ShortConvSaved::bytes_per_token(a, precision, keep),
            Mixing::GatedDelta(delta) => GatedDeltaSaved::bytes_per_token(a, delta, precision, keep),
            Mixing::Mamba2(mamba) => Mamba2Saved::bytes_per_token(a, mamba, precision, keep),
            Mixing::AttentionAndMamba2(mamba) => {
                AttentionSaved::bytes_per_token(a, layer, precision, keep)
                    + Mamba2Saved::bytes_per_token(a, mamba, precision, keep)
            }
        }
    }
}

impl Mixer {
    /// Adds what the tokens of `x` get from each other to `x`; with `keep`, gives what the backward needs.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        flow: &mut Flow<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<MixerSaved>> {
        Ok(match self {
            Mixer::Attention(m) => m.forward(pass, x, flow, cache, keep)?.map(MixerSaved::Attention),
            Mixer::ShortConv(m) => m.forward(pass, x, flow.tokens, cache, keep)?.map(MixerSaved::ShortConv),
            Mixer::GatedDelta(m) => m.forward(pass, x, flow.tokens, cache, keep)?.map(MixerSaved::GatedDelta),
            Mixer::Mamba2(m) => m.forward(pass, None, x, flow.tokens, cache, keep)?.map(MixerSaved::Mamba2),
            Mixer::Both(both) => {
                let input = elementwise::cast(pass.dev, x, DType::F32);
                let (attention_cache, mamba_cache) = match cache {
                    Some((LayerCache::Both(caches), slots)) => {
                        let [a, m] = caches.each_mut();
                        (Some((a, slots)), Some((m, slots)))
                    }
                    _ => (None, None),
                };
                let attention = both.0.forward(pass, x, flow, attention_cache, keep)?;
                let mamba = both.1.forward(pass, Some(&input), x, flow.tokens, mamba_cache, keep)?;
                attention.zip(mamba).map(|both| MixerSaved::Both(Box::new(both)))
            }
        })
    }

    /// Adds the gradient of the input to `stream.dx`, and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        saved: MixerSaved,
        stream: StreamGradient<'_>,
        flow: &mut Flow<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        match (self, saved) {
            (Mixer::Attention(m), MixerSaved::Attention(s)) => m.backward(pass, s, stream, flow, grads),
            (Mixer::ShortConv(m), MixerSaved::ShortConv(s)) => {
                m.backward(pass, s, stream, flow.tokens, grads)
            }
            (Mixer::GatedDelta(m), MixerSaved::GatedDelta(s)) => {
                m.backward(pass, s, stream, flow.tokens, grads)
            }
            (Mixer::Mamba2(m), MixerSaved::Mamba2(s)) => m.backward(pass, s, stream, flow.tokens, grads),
            (Mixer::Both(both), MixerSaved::Both(saved)) => {
                let StreamGradient { d_out, dx, need_dx } = stream;
                let copy = elementwise::cast(pass.dev, d_out.unwrap_or(dx), DType::F32);
                let d_out = Some(&copy);
                let (attention, mamba) = *saved;
                both.1.backward(pass, mamba, StreamGradient { d_out, dx, need_dx }, flow.tokens, grads)?;
                both.0.backward(pass, attention, StreamGradient { d_out, dx, need_dx }, flow, grads)
            }
            _ => unreachable!("the forward of the same mixer made it"),
        }
    }

    /// What it keeps of sequences in generation, empty.
    pub(super) fn cache(
        &self,
        dev: &Device,
        precision: Precision,
        sequences: usize,
        capacity: usize,
    ) -> LayerCache {
        let keys = |m: &Attention| {
            // Nothing where the keys are another layer's.
            let rows = if m.qkv.takes().is_some() { 0 } else { sequences * capacity };
            LayerCache::keys(dev, precision, rows, m.heads.kv * m.heads.dim)
        };
        match self {
            Mixer::Attention(m) => keys(m),
            Mixer::ShortConv(m) => LayerCache::States(vec![m.conv.states(dev, sequences)]),
            Mixer::GatedDelta(m) => LayerCache::States(m.states(dev, sequences)),
            Mixer::Mamba2(m) => LayerCache::States(m.states(dev, sequences)),
            Mixer::Both(both) => {
                let states = LayerCache::States(both.1.states(dev, sequences));
                LayerCache::Both(Box::new([keys(&both.0), states]))
            }
        }
    }

    /// The layer whose cache it reads, if it has none of its own.
    pub(super) fn takes(&self) -> Option<usize> {
        match self {
            Mixer::Attention(m) => m.qkv.takes(),
            _ => None,
        }
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> Vec<&LinearLayer> {
        match self {
            Mixer::Attention(m) => m.linears().collect(),
            Mixer::ShortConv(m) => vec![&m.in_proj, &m.out_proj],
            Mixer::GatedDelta(m) => m.input.linears().iter().chain([&m.out_proj]).collect(),
            Mixer::Mamba2(m) => vec![&m.in_proj, &m.out_proj],
            Mixer::Both(both) => both.0.linears().chain([&both.1.in_proj, &both.1.out_proj]).collect(),
        }
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut LinearLayer> {
        match self {
            Mixer::Attention(m) => m.linears_mut().collect(),
            Mixer::ShortConv(m) => vec![&mut m.in_proj, &mut m.out_proj],
            Mixer::GatedDelta(m) => m.input.linears_mut().iter_mut().chain([&mut m.out_proj]).collect(),
            Mixer::Mamba2(m) => vec![&mut m.in_proj, &mut m.out_proj],
            Mixer::Both(both) => {
                let Mamba2 { in_proj, out_proj, .. } = &mut both.1;
                both.0.linears_mut().chain([in_proj, out_proj]).collect()
            }
        }
    }

    /// The norms; one that two mixers read is there once.
    pub fn norms(&self) -> Vec<&Norm> {
        match self {
            Mixer::Attention(m) => m.norms().collect(),
            Mixer::ShortConv(m) => m.norm.iter().chain(&m.residual.norm).collect(),
            Mixer::GatedDelta(m) => m.norm.iter().chain([&m.out_norm]).chain(&m.residual.norm).collect(),
            Mixer::Mamba2(m) => m.norms().collect(),
            Mixer::Both(both) => {
                let known: Vec<&Norm> = both.0.norms().collect();
                let new = both.1.norms().filter(|n| known.iter().all(|k| k.name != n.name));
                known.iter().copied().chain(new).collect()
            }
        }
    }

    /// All norms, to change: one that two mixers read is there twice.
    pub(crate) fn norms_mut(&mut self) -> Vec<&mut Norm> {
        match self {
            Mixer::Attention(m) => m.norms_mut().collect(),
            Mixer::ShortConv(m) => m.norm.iter_mut().chain(&mut m.residual.norm).collect(),
            Mixer::GatedDelta(m) => {
                m.norm.iter_mut().chain([&mut m.out_norm]).chain(&mut m.residual.norm).collect()
            }
            Mixer::Mamba2(m) => m.norms_mut().collect(),
            Mixer::Both(both) => both.0.norms_mut().chain(both.1.norms_mut()).collect(),
        }
    }

    /// Its tensors that belong to no linear and no norm.
    pub(crate) fn own_tensors(&self) -> Vec<SmallTensor<'_>> {
        match self {
            Mixer::Attention(m) => m.own_tensors().collect(),
            Mixer::ShortConv(m) => m.conv.tensors().collect(),
            Mixer::GatedDelta(m) => m.own_tensors().collect(),
            Mixer::Mamba2(m) => m.own_tensors().collect(),
            Mixer::Both(both) => both.1.own_tensors().collect(),
        }
    }

    /// The norm of its input.
    pub(super) fn input_norm(&self) -> Option<&Norm> {
        match self {
            Mixer::Attention(m) => m.norm.as_ref(),
            Mixer::ShortConv(m) => m.norm.as_ref(),
            Mixer::GatedDelta(m) => m.norm.as_ref(),
            Mixer::Mamba2(m) => m.norm.as_ref(),
            Mixer::Both(both) => both.0.norm.as_ref(),
        }
    }

    /// Whether anything in here is trained.
    pub fn trains(&self, pass: &Pass<'_>) -> bool {
        let own = || self.own_tensors().iter().any(|t| t.values.is_trained());
        self.linears().iter().any(|l| pass.trains(l)) || self.norms().iter().any(|n| n.trained(pass)) || own()
    }
}
