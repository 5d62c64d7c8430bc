//! A checkpoint's tensors become a [`Decoder`]: every name is consumed exactly once, every shape is checked.

use std::collections::BTreeSet;

use ferrotune_kernels::ops::attention::Heads;
use ferrotune_kernels::quant::nf4::quantize;
use ferrotune_kernels::quant::{Bytes, Storage};
use ferrotune_kernels::{DType, Device, Tensor, Weight};

use super::attention::Attention;
use super::decoder::{Decoder, Layer};
use super::families::{Architecture, architecture};
use super::linear::{Base, LinearLayer, Vector};
use super::mlp::Mlp;
use super::norm::Norm;
use super::params::Params;
use super::rope::RopeTable;
use crate::checkpoint::Checkpoint;
use crate::{Error, Result};

/// How the linears of the layers are held in memory. Embedding and head keep the checkpoint's storage unless all is
/// trained or dense.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BaseStorage {
    /// As the checkpoint has them: no second rounding.
    AsStored,
    /// Dense floats; a dense checkpoint that is no wider stays as it is.
    Dense(DType),
    /// NF4 or FP4 in blocks.
    FourBit(FourBitOptions),
    /// f32 parameters (full fine-tuning).
    Trained,
}

/// The 4-bit format asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FourBitOptions {
    /// Code book.
    pub kind: ferrotune_kernels::quant::nf4::FourBitKind,
    /// Values of a block.
    pub block: usize,
    /// Whether the block scales are quantized to 8 bits.
    pub double: bool,
}

/// Loads the network for sequences of up to `positions` tokens, with its parameters if it is trained.
pub fn load(
    dev: &Device,
    checkpoint: &Checkpoint,
    storage: BaseStorage,
    positions: usize,
) -> Result<(Decoder, Params)> {
    let arch = architecture(checkpoint.config())?;
    let mut loader =
        Loader { dev, checkpoint, storage, params: Params::default(), consumed: BTreeSet::new(), linears: 0 };
    let decoder = loader.decoder(arch, positions)?;
    let left = checkpoint.unused(&loader.consumed);
    if !left.is_empty() {
        let shown = left.iter().take(5).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let problem = format!("{} tensors belong to no part of the network: {shown}", left.len());
        return Err(Error::file(checkpoint.path(), problem)
            .with_hint("the folder's weights and its config.json describe different networks"));
    }
    Ok((decoder, loader.params))
}

struct Loader<'a> {
    dev: &'a Device,
    checkpoint: &'a Checkpoint,
    storage: BaseStorage,
    params: Params,
    consumed: BTreeSet<String>,
    linears: usize,
}

impl Loader<'_> {
    fn decoder(&mut self, arch: Architecture, positions: usize) -> Result<Decoder> {
        let a = &arch;
        let table = self.read("model.embed_tokens.weight", a.vocab, a.hidden)?;
        let embed = self.outer(table, "model.embed_tokens.weight")?;
        let layers = (0..a.layers).map(|i| self.layer(a, i)).collect::<Result<Vec<_>>>()?;
        let norm = self.norm("model.norm", a.hidden, a.norm_eps)?;
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
            tied_head = Some(head(usize::MAX, base));
        } else {
            let weight = self.read("lm_head.weight", a.vocab, a.hidden)?;
            let base = self.outer(weight, "lm_head.weight")?;
            lm_head = Some(head(self.linears, base));
        }
        let rope = RopeTable::new(self.dev, positions, a.head_dim, a.rope_theta, &a.rope_scaling)?;
        Ok(Decoder { arch, embed, layers, norm, lm_head, rope, tied_head })
    }

    fn layer(&mut self, a: &Architecture, i: usize) -> Result<Layer> {
        let at = |name: &str| format!("model.layers.{i}.{name}");
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let attention = Attention {
            norm: self.norm(&at("input_layernorm"), a.hidden, a.norm_eps)?,
            q_proj: self.linear(at("self_attn.q_proj"), q, a.hidden, a.qkv_bias)?,
            k_proj: self.linear(at("self_attn.k_proj"), kv, a.hidden, a.qkv_bias)?,
            v_proj: self.linear(at("self_attn.v_proj"), kv, a.hidden, a.qkv_bias)?,
            o_proj: self.linear(at("self_attn.o_proj"), a.hidden, q, a.o_bias)?,
            heads: Heads {
                q: a.heads,
                kv: a.kv_heads,
                dim: a.head_dim,
                scale: 1.0 / (a.head_dim as f32).sqrt(),
                window: a.windows[i],
            },
        };
        let mlp = Mlp {
            norm: self.norm(&at("post_attention_layernorm"), a.hidden, a.norm_eps)?,
            gate_proj: self.linear(at("mlp.gate_proj"), a.ffn, a.hidden, a.mlp_bias)?,
            up_proj: self.linear(at("mlp.up_proj"), a.ffn, a.hidden, a.mlp_bias)?,
            down_proj: self.linear(at("mlp.down_proj"), a.hidden, a.ffn, a.mlp_bias)?,
        };
        Ok(Layer { attention, mlp })
    }

    fn read(&mut self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let weight = self.checkpoint.weight(name, rows, cols)?;
        self.consumed.insert(name.to_string());
        Ok(weight)
    }

    fn linear(&mut self, name: String, rows: usize, cols: usize, bias: bool) -> Result<LinearLayer> {
        let weight_name = format!("{name}.weight");
        let weight = self.read(&weight_name, rows, cols)?;
        let base = match self.storage {
            BaseStorage::AsStored => Base::Frozen(weight),
            BaseStorage::Dense(dtype) => Base::Frozen(dense(weight, dtype)?),
            BaseStorage::FourBit(o) => Base::Frozen(quantize(&weight, o.kind, o.block, o.double)?),
            BaseStorage::Trained => Base::Trained(self.parameter(&weight_name, &weight)),
        };
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), rows)?) } else { None };
        let id = self.linears;
        self.linears += 1;
        Ok(LinearLayer { id, name, rows, cols, base, bias })
    }

    /// Embedding and head: not quantized, as the field does.
    fn outer(&mut self, weight: Weight, name: &str) -> Result<Base> {
        Ok(match self.storage {
            BaseStorage::Trained => Base::Trained(self.parameter(name, &weight)),
            BaseStorage::Dense(dtype) => Base::Frozen(dense(weight, dtype)?),
            _ => Base::Frozen(weight),
        })
    }

    fn parameter(&mut self, name: &str, weight: &Weight) -> super::params::ParamId {
        let mut value = self.dev.empty(weight.rows(), weight.cols());
        for (row, out) in value.f32_mut().chunks_exact_mut(weight.cols()).enumerate() {
            weight.decode(row, 0, out);
        }
        self.params.push(name, value)
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vector> {
        let values = self.checkpoint.vector(name, len)?;
        self.consumed.insert(name.to_string());
        let value: Tensor = self.dev.tensor(1, len, &values);
        Ok(match self.storage {
            BaseStorage::Trained => Vector::Trained(self.params.push(name, value)),
            _ => Vector::Frozen(value),
        })
    }

    fn norm(&mut self, name: &str, len: usize, eps: f32) -> Result<Norm> {
        let weight = self.vector(&format!("{name}.weight"), len)?;
        Ok(Norm { name: name.to_string(), weight, eps })
    }
}

/// The weight as dense floats of at most `dtype`'s width; dense weights are never widened.
pub(crate) fn dense(weight: Weight, dtype: DType) -> Result<Weight> {
    if let Storage::Dense(stored, _) = weight.storage()
        && stored.size() <= dtype.size()
    {
        return Ok(weight);
    }
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut bytes = Vec::with_capacity(rows * cols * dtype.size());
    let mut row = vec![0.0f32; cols];
    for r in 0..rows {
        weight.decode(r, 0, &mut row);
        match dtype {
            DType::F32 => row.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
            DType::F16 => row.iter().for_each(|v| bytes.extend(half::f16::from_f32(*v).to_le_bytes())),
            DType::Bf16 => row.iter().for_each(|v| bytes.extend(half::bf16::from_f32(*v).to_le_bytes())),
        }
    }
    Ok(Weight::dense(rows, cols, dtype, Bytes::owned(bytes))?)
}
