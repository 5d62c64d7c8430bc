//! The parts of a network, one after the other in the order of its layers.

use std::collections::BTreeSet;

use ferrotune_kernels::ops::attention::Heads;
use ferrotune_kernels::ops::norm::NormOp;
use ferrotune_kernels::ops::{gated_delta, layer_norm, rms_norm};
use ferrotune_kernels::quant::Bytes;
use ferrotune_kernels::{DType, Device, Weight};

use super::{BaseForm, BaseStorage, Linears};
use crate::arch::architecture as arch;
use crate::arch::architecture::{
    Architecture, LayerAttention, LayerNorms, Mamba2Norm, Mixing, MlpKind, QkNorm, QkNormOver, Values,
};
use crate::formats::Checkpoint;
use crate::model::attention::{Attention, Sinks};
use crate::model::conv_taps::ConvTaps;
use crate::model::decoder::Decoder;
use crate::model::gated_delta::{DeltaInput, GatedDelta};
use crate::model::heads::HeadTurn;
use crate::model::layer::{Ffn, Layer, LayerScalar};
use crate::model::mamba2::{Mamba2, OutGate};
use crate::model::mixer::Mixer;
use crate::model::mlp::{Act, Mlp, Up, XieluNumbers};
use crate::model::norm::{FixedNorm, Norm, NormOf};
use crate::model::params::{Group, ParamId, Params};
use crate::model::parts::TIED_HEAD;
use crate::model::parts::{Base, LinearLayer, Vector};
use crate::model::qkv::Qkv;
use crate::model::residual::Residual;
use crate::model::rope::Rotary;
use crate::model::short_conv::ShortConv;
use crate::units::human;
use crate::{Error, Result};

pub(crate) struct Loader<'a> {
    pub(crate) dev: &'a Device,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) form: BaseForm,
    pub(crate) from: Linears<'a>,
    pub(crate) params: Params,
    pub(crate) consumed: BTreeSet<String>,
    pub(crate) linears: usize,
}

impl Loader<'_> {
    pub(crate) fn decoder(&mut self, arch: Architecture, positions: usize) -> Result<Decoder> {
        let a = &arch;
        let embed = self.matrix(a.tree.embedding, a.vocab, a.hidden, self.form.tables)?;
        let layers = (0..a.layers).map(|i| self.layer(a, i)).collect::<Result<Vec<_>>>()?;
        let norm = self.norm(a, format!("{}.{}", a.tree.decoder, a.final_norm))?;
        let head = |id, base| LinearLayer {
            id,
            name: "lm_head".into(),
            rows: a.vocab,
            cols: a.hidden,
            base,
            bias: None,
        };
        let (mut lm_head, mut tied_head) = (None, None);
        if a.tied {
            // Some tied checkpoints carry the head a second time.
            self.consumed.insert("lm_head.weight".into());
            let base = match &embed {
                Base::Frozen(w) => Base::Frozen(w.clone()),
                Base::Trained(id) => Base::Trained(*id),
            };
            tied_head = Some(head(TIED_HEAD, base));
        } else {
            let base = self.matrix("lm_head", a.vocab, a.hidden, self.form.tables)?;
            lm_head = Some(head(self.linears, base));
        }
        let rotary = |rope: &crate::arch::architecture::Rope| Rotary::new(self.dev, positions, rope.clone());
        let ropes = a.ropes.iter().map(rotary).collect::<Result<Vec<_>>>()?;
        Ok(Decoder { arch, embed, layers, norm, lm_head, ropes, reader: None, eight_bit: false, tied_head })
    }

    fn layer(&mut self, a: &Architecture, i: usize) -> Result<Layer> {
        let at = |name: &str| a.tree.in_layer(i, name);
        let LayerNorms { before_attention, after_attention, before_mlp, after_mlp } = a.norms;
        let mut norm = |name: Option<&str>| name.map(|n| self.norm(a, at(n))).transpose();
        let (before, after) = (norm(before_attention)?, norm(after_attention)?);
        let (mlp_before, mlp_after) = (norm(before_mlp)?, norm(after_mlp)?);
        let mixer = match a.mixers[i] {
            Mixing::Attention => Mixer::Attention(self.attention(a, i, before, after)?),
            Mixing::GatedDelta(delta) => Mixer::GatedDelta(self.gated_delta(a, delta, i, before, after)?),
            Mixing::Mamba2(mamba) => Mixer::Mamba2(self.mamba2(a, mamba, i, before, after)?),
            Mixing::AttentionAndMamba2(mamba) => {
                let attention = self.attention(a, i, before, after)?;
                let mut norm = |name: Option<&str>| name.map(|n| self.norm(a, at(n))).transpose();
                let (before, after) = (norm(before_attention)?, norm(after_attention)?);
                Mixer::Both(Box::new((attention, self.mamba2(a, mamba, i, before, after)?)))
            }
            Mixing::ShortConv(conv) => Mixer::ShortConv(self.short_conv(a, conv, i, before, after)?),
        };
        let residual = Residual { norm: mlp_after, scale: a.residual_scale * a.mlp_scale };
        let mlp = match a.experts_of(i) {
            Some(experts) => Ffn::Experts(self.experts(a, experts, i, mlp_before, residual)?),
            None => Ffn::Dense(self.mlp(a, i, mlp_before, residual)?),
        };
        let scalar = match a.layer_scalar {
            true => Some(self.layer_scalar(a.tree.in_layer(i, "layer_scalar"))?),
            false => None,
        };
        Ok(Layer { mixer, mlp, parallel: a.norms.parallel(), scalar })
    }

    /// The constant of a layer's output; transformers takes 1 where a file has none.
    fn layer_scalar(&mut self, name: String) -> Result<LayerScalar> {
        let value = match self.checkpoint.contains(&name) {
            true => self.values(&name, &[1])?[0],
            false => 1.0,
        };
        Ok(LayerScalar { name, value: [value] })
    }

    fn mlp(&mut self, a: &Architecture, i: usize, norm: Option<Norm>, residual: Residual) -> Result<Mlp> {
        let at = |name: &str| a.tree.in_layer(i, name);
        let ffn = a.attention(i).ffn;
        let mut linear = |name: &str, rows, cols| self.linear(at(name), rows, cols, a.mlp_bias);
        let (up, down) = match a.mlp {
            MlpKind::Gated([gate, up, down]) => {
                let both = [linear(gate, ffn, a.hidden)?, linear(up, ffn, a.hidden)?];
                let up = match a.gate_scale {
                    1.0 => Up::Gated(Box::new(both)),
                    scale => Up::Scaled(Box::new(both), scale),
                };
                (up, down)
            }
            MlpKind::Fused([both, down]) => (Up::Fused(Box::new(linear(both, 2 * ffn, a.hidden)?)), down),
            MlpKind::Plain([up, down]) => (Up::Plain(Box::new(linear(up, ffn, a.hidden)?)), down),
        };
        let down_proj = linear(down, a.hidden, ffn)?;
        let activation = match a.xielu {
            true => Act::Xielu(Box::new(self.xielu(at("mlp.act_fn"))?)),
            false => Act::Fixed(a.activation),
        };
        Ok(Mlp { norm, up, activation, down_proj, residual })
    }

    fn xielu(&mut self, name: String) -> Result<XieluNumbers> {
        let at = |part: &str| format!("{name}.{part}");
        let [beta, eps] = [("beta", 0.5), ("eps", -1e-6)].map(|(part, usual)| {
            // Not every file carries the constants.
            match self.checkpoint.contains(&at(part)) {
                true => Ok::<_, Error>([self.values(&at(part), &[])?[0]]),
                false => Ok([usual]),
            }
        });
        let alpha_p = self.vector_in(Group::Matrix, &at("alpha_p"), 1)?;
        let alpha_n = self.vector_in(Group::Matrix, &at("alpha_n"), 1)?;
        Ok(XieluNumbers { alpha_p, alpha_n, beta: beta?, eps: eps?, name })
    }

    fn attention(
        &mut self,
        a: &Architecture,
        i: usize,
        before: Option<Norm>,
        after: Option<Norm>,
    ) -> Result<Attention> {
        let module = a.tree.in_layer(i, "self_attn");
        let at = |name: &str| format!("{module}.{name}");
        let LayerAttention { kv_heads, head_dim, values, .. } = a.attention(i);
        let (q, kv) = a.qk_width(i);
        let mut linear = |name: &str, rows| self.linear(at(name), rows, a.hidden, a.qkv_bias);
        let q_rows = if a.attention_gate { 2 * q } else { q };
        let qkv = match values {
            _ if a.fused_qkv => Qkv::Fused(Box::new(linear("qkv_proj", q + 2 * kv)?)),
            Values::Projected => Qkv::Separate(Box::new([
                linear("q_proj", q_rows)?,
                linear("k_proj", kv)?,
                linear("v_proj", kv)?,
            ])),
            Values::Layer(from) => Qkv::Queries(Box::new(linear("q_proj", q_rows)?), from),
            Values::Keys => Qkv::Keyed(Box::new([linear("q_proj", q_rows)?, linear("k_proj", kv)?])),
        };
        let mut qk_norm = |norm: QkNorm, name: &str, heads: usize| match norm.over {
            QkNormOver::Head => self.norm_of(a.norm, at(name), head_dim, a.norm_eps),
            QkNormOver::Whole => self.norm_of(a.norm, at(name), heads * head_dim, a.norm_eps),
            QkNormOver::OwnLayer => self.own_norms(at(name), heads, head_dim, a.norm_eps),
        };
        let takes = qkv.takes().is_some();
        let (mut q_norm, mut k_norm) = (None, None);
        if let Some(norm) = a.qk_norm {
            q_norm = Some(qk_norm(norm, norm.names[0], a.heads)?);
            if !takes {
                k_norm = Some(qk_norm(norm, norm.names[1], kv_heads)?);
            }
        }
        let v_norm = (a.v_norm && !takes).then(|| FixedNorm::new(self.dev, head_dim, 1.0, a.norm_eps));
        let after_rotation = a.qk_norm.is_some_and(|norm| norm.after_rotation);
        if takes {
            // Released files have tensors for it that nothing reads.
            for part in ["k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias", "k_norm.weight"] {
                self.consumed.insert(at(part));
            }
        }
        Ok(Attention {
            norm: before,
            qkv,
            turn: HeadTurn { q_norm, k_norm, after_rotation, v_norm, dim: head_dim },
            gated: a.attention_gate,
            sinks: match a.sinks {
                true => Some(Sinks {
                    values: self.vector_in(Group::Matrix, &at("sinks"), a.heads)?,
                    name: at("sinks"),
                }),
                false => None,
            },
            o_proj: self.linear(at(a.o_proj), a.hidden, q, a.o_bias)?,
            residual: Residual { norm: after, scale: a.residual_scale * a.attention_scale },
            heads: Heads {
                q: a.heads,
                kv: kv_heads,
                dim: head_dim,
                scale: a.score_scale,
                window: a.windows[i],
                cap: a.score_cap,
            },
            rotation: a.rope_of_layer[i],
            gives: a.gives_keys(i).then_some(i),
        })
    }

    fn short_conv(
        &mut self,
        a: &Architecture,
        conv: arch::ShortConv,
        i: usize,
        before: Option<Norm>,
        after: Option<Norm>,
    ) -> Result<ShortConv> {
        let module = a.tree.in_layer(i, "conv");
        let at = |name: &str| format!("{module}.{name}");
        let d = a.hidden;
        Ok(ShortConv {
            norm: before,
            in_proj: self.linear(at("in_proj"), 3 * d, d, conv.bias)?,
            conv: self.conv_taps(at("conv"), [d, conv.taps], conv.bias)?,
            out_proj: self.linear(at("out_proj"), d, d, conv.bias)?,
            residual: Residual { norm: after, scale: a.residual_scale },
        })
    }

    fn gated_delta(
        &mut self,
        a: &Architecture,
        delta: arch::GatedDelta,
        i: usize,
        before: Option<Norm>,
        after: Option<Norm>,
    ) -> Result<GatedDelta> {
        let name = a.tree.in_layer(i, "linear_attn");
        let at = |part: &str| format!("{name}.{part}");
        let (channels, values, v) = (delta.channels(), delta.value_width(), delta.value_heads);
        let mut linear = |part: &str, rows| self.linear(at(part), rows, a.hidden, false);
        let width = delta.key_dim;
        let unit = 1.0 / (width as f32).sqrt();
        let heads = gated_delta::Heads {
            k: delta.key_heads,
            v,
            key_dim: width,
            value_dim: delta.value_dim,
            scale: unit,
        };
        let input = if delta.by_key_head {
            let two = [linear("in_proj_qkvz", channels + values)?, linear("in_proj_ba", 2 * v)?];
            DeltaInput::ByKeyHead(Box::new(two), heads)
        } else {
            DeltaInput::Separate(Box::new([
                linear("in_proj_qkv", channels)?,
                linear("in_proj_z", values)?,
                linear("in_proj_b", v)?,
                linear("in_proj_a", v)?,
            ]))
        };
        Ok(GatedDelta {
            norm: before,
            input,
            conv: self.conv_taps(at("conv1d"), [channels, delta.taps], false)?,
            // Decays as a matrix does: its name says neither bias nor norm.
            a_log: self.vector_in(Group::Matrix, &at("A_log"), v)?,
            dt_bias: self.vector(&at("dt_bias"), v)?,
            out_norm: self.norm_of(rms_norm::RMS, at("norm"), delta.value_dim, a.norm_eps)?,
            out_proj: self.linear(at("out_proj"), a.hidden, values, false)?,
            residual: Residual { norm: after, scale: a.residual_scale },
            heads,
            // As an RMS norm, whose sum is a mean.
            unit: FixedNorm::new(self.dev, width, unit, 1e-6 / width as f32),
            name,
        })
    }

    fn mamba2(
        &mut self,
        a: &Architecture,
        mamba: arch::Mamba2,
        i: usize,
        before: Option<Norm>,
        after: Option<Norm>,
    ) -> Result<Mamba2> {
        let name = a.tree.in_layer(i, mamba.module);
        let at = |part: &str| format!("{name}.{part}");
        let (width, heads) = (mamba.width(), mamba.heads);
        let [in_bias, out_bias] = mamba.bias;
        let mut norm = || {
            let weight = self.vector(&at("norm.weight"), width)?;
            let (width, of) = (width / heads.groups, NormOf::Groups(heads.groups));
            let (op, eps) = (rms_norm::RMS, a.norm_eps);
            Ok::<_, Error>(Norm { name: at("norm"), op, weight, bias: None, width, eps, of })
        };
        let gate = match mamba.norm {
            Mamba2Norm::None => OutGate::Plain,
            Mamba2Norm::BeforeGate => OutGate::OfNormed(norm()?),
            Mamba2Norm::AfterGate => OutGate::Normed(norm()?),
        };
        Ok(Mamba2 {
            norm: before,
            in_proj: self.linear(at("in_proj"), mamba.projected(), a.hidden, in_bias)?,
            conv: self.conv_taps(at("conv1d"), [mamba.channels(), mamba.taps], mamba.conv_bias)?,
            // Both decay as a matrix does: their names say neither bias nor norm.
            a_log: self.vector_in(Group::Matrix, &at("A_log"), heads.count)?,
            d: self.vector_in(Group::Matrix, &at("D"), heads.count)?,
            dt_bias: self.vector(&at("dt_bias"), heads.count)?,
            limits: mamba.limits,
            gate,
            out_proj: self.linear(at("out_proj"), a.hidden, width, out_bias)?,
            factors: mamba.factors,
            residual: Residual { norm: after, scale: a.residual_scale * mamba.scale },
            heads,
            name,
        })
    }

    /// A convolution of every channel by itself; a file has its taps as `[C, 1, K]`.
    fn conv_taps(&mut self, name: String, shape: [usize; 2], bias: bool) -> Result<ConvTaps> {
        let [c, k] = shape;
        let file = format!("{name}.weight");
        let values = self.dev.tensor(c, k, &self.values(&file, &[c, 1, k])?);
        let weight = match self.form.linears {
            BaseStorage::Trained => Vector::Trained(self.params.push(file, values)),
            _ => Vector::Frozen(values),
        };
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), c)?) } else { None };
        Ok(ConvTaps { name, weight, bias, shape })
    }

    pub(super) fn read(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let weight = self.checkpoint.weight(name, rows, cols)?;
        self.consumed.insert(name.to_string());
        Ok(weight)
    }

    pub(super) fn linear(
        &mut self,
        name: String,
        rows: usize,
        cols: usize,
        bias: bool,
    ) -> Result<LinearLayer> {
        let base = self.matrix(&name, rows, cols, self.form.linears)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), rows)?) } else { None };
        Ok(self.numbered(name, rows, cols, base, bias))
    }

    /// The matrix of a module, from the cache or the checkpoint.
    fn matrix(&mut self, name: &str, rows: usize, cols: usize, storage: BaseStorage) -> Result<Base> {
        let file = format!("{name}.weight");
        let base = match self.cached(name, rows, cols, storage) {
            Some(kept) => kept,
            None => {
                let weight = self.checkpoint.weight(&file, rows, cols)?;
                self.converted(name, weight, storage)?
            }
        };
        self.consumed.insert(file);
        Ok(base)
    }

    /// What the cache has for a module; of what takes no work to make it has nothing.
    pub(super) fn cached(&self, name: &str, rows: usize, cols: usize, storage: BaseStorage) -> Option<Base> {
        match &self.from {
            Linears::Read(cached) if storage.quantized_name().is_some() => {
                cached.weight(name, rows, cols).map(Base::Frozen)
            }
            _ => None,
        }
    }

    /// The weight of a module in a storage.
    pub(super) fn converted(&mut self, name: &str, weight: Weight, storage: BaseStorage) -> Result<Base> {
        let file = format!("{name}.weight");
        if storage == BaseStorage::Trained {
            let base = Base::Trained(self.parameter(&file, &weight)?);
            self.checkpoint.release(&file);
            return Ok(base);
        }
        let form = |w: &Weight| (w.format_name(), w.nbytes());
        let stored = form(&weight);
        let empty = || Weight::dense(0, 0, DType::F32, Bytes::owned(Vec::new()));
        let quantized = storage.quantized_name().is_some();
        let held = match &self.from {
            Linears::Write(writer) if !quantized || writer.has_failed() || writer.has(name) => empty()?,
            _ => storage.convert(&self.dev.threads(), weight)?,
        };
        if form(&held) != stored {
            self.checkpoint.release(&file);
        }
        Ok(Base::Frozen(match &mut self.from {
            Linears::Write(writer) if quantized => {
                writer.add(name, &held);
                empty()?
            }
            Linears::Write(_) | Linears::Convert | Linears::Read(_) => held,
        }))
    }

    pub(super) fn numbered(
        &mut self,
        name: String,
        rows: usize,
        cols: usize,
        base: Base,
        bias: Option<Vector>,
    ) -> LinearLayer {
        let id = self.linears;
        self.linears += 1;
        LinearLayer { id, name, rows, cols, base, bias }
    }

    fn parameter(&mut self, name: &str, weight: &Weight) -> Result<ParamId> {
        let mut value = self.dev.empty(weight.rows(), weight.cols());
        self.dev.fill_rows(&mut value, |row, out| weight.decode(row, 0, out));
        self.params.place(self.dev, name, value).map_err(|e| {
            let bytes = human(4 * (weight.rows() * weight.cols()) as u64);
            Error::tensor(
                self.checkpoint.path(),
                name,
                format!("{bytes} of its f32 values take disk space: {e}"),
            )
            .with_hint("make room in output.dir, or use train.weights: f32, which needs no disk")
        })
    }

    pub(super) fn vector(&mut self, name: &str, len: usize) -> Result<Vector> {
        self.vector_in(Group::BiasOrNorm, name, len)
    }

    fn vector_in(&mut self, group: Group, name: &str, len: usize) -> Result<Vector> {
        let values = self.values(name, &[len])?;
        Ok(self.keep_vector(group, name, &values))
    }

    pub(super) fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.checkpoint.values(name, shape)?;
        self.consumed.insert(name.to_string());
        Ok(values)
    }

    pub(super) fn keep_vector(&mut self, group: Group, name: &str, values: &[f32]) -> Vector {
        if self.form.linears != BaseStorage::Trained {
            return Vector::Frozen(self.dev.tensor(1, values.len(), values));
        }
        // A norm that two parts of a layer read is one parameter.
        let id = self.params.find(name);
        Vector::Trained(id.unwrap_or_else(|| {
            let value = self.dev.tensor(1, values.len(), values);
            self.params.push_in(group, name, value)
        }))
    }

    /// A bias that is a part of a tensor.
    pub(super) fn keep_bias(&mut self, linear: &str, values: &[f32]) -> Vector {
        self.keep_vector(Group::BiasOrNorm, &format!("{linear}.bias"), values)
    }

    /// A norm of the residual stream.
    fn norm(&mut self, a: &Architecture, name: String) -> Result<Norm> {
        self.norm_of(a.norm, name, a.hidden, a.norm_eps)
    }

    fn norm_of(&mut self, op: &'static dyn NormOp, name: String, width: usize, eps: f32) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        let bias = if op.has_bias() { Some(self.vector(&format!("{name}.bias"), width)?) } else { None };
        Ok(Norm { name, op, weight, bias, width, eps, of: NormOf::All })
    }

    /// Layer norms of heads that have a module each.
    fn own_norms(&mut self, name: String, heads: usize, width: usize, eps: f32) -> Result<Norm> {
        let mut values = Vec::with_capacity(heads * width);
        for head in 0..heads {
            let tensor = format!("{name}.norms.{head}.weight");
            values.extend(self.checkpoint.vector(&tensor, width)?);
            self.consumed.insert(tensor);
        }
        let weight = self.keep_vector(Group::BiasOrNorm, &format!("{name}.weight"), &values);
        Ok(Norm { name, op: layer_norm::LAYER, weight, bias: None, width, eps, of: NormOf::Modules(heads) })
    }
}
