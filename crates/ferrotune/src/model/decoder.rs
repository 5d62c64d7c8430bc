//! The network: embedding, layers, final norm, head; what is saved per layer is a policy of the caller.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Device, Tensor};

use super::attention::{Attention, AttentionSaved, Tokens};
use super::families::Architecture;
use super::kv_cache::{KvCache, Slots};
use super::linear::{Base, LinearLayer, Pass};
use super::mlp::{Keep, Mlp, MlpSaved};
use super::norm::Norm;
use super::params::Gradients;
use super::rope::RopeTable;
use crate::Result;

/// What a layer keeps for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// Everything that would cost a matrix product to make again.
    Keep,
    /// All but gate and up, the widest tensors; they are made again.
    Lean,
    /// The layer's input alone; the layer runs forward again.
    Recompute,
}

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Attention with its norm.
    pub attention: Attention,
    /// MLP with its norm.
    pub mlp: Mlp,
}

/// The network.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub arch: Architecture,
    /// `model.embed_tokens`, `[V, D]`.
    pub embed: Base,
    /// The layers.
    pub layers: Vec<Layer>,
    /// `model.norm`.
    pub norm: Norm,
    /// `lm_head`; `None` if it is the embedding.
    pub lm_head: Option<LinearLayer>,
    /// Cosines and sines of all positions that may occur.
    pub rope: RopeTable,
    /// The embedding as a head, when it is tied.
    pub(super) tied_head: Option<LinearLayer>,
}

/// A layer's saved activations under the policy that made them.
enum LayerSaved {
    Kept(Box<(AttentionSaved, MlpSaved)>),
    Input(Tensor),
}

/// What a forward pass saved.
pub struct Saved {
    layers: Vec<Option<LayerSaved>>,
    first: usize,
}

impl Decoder {
    /// All linears that an adapter can target, in the order of their numbers.
    pub fn linears(&self) -> Vec<&LinearLayer> {
        let mut all = Vec::new();
        for l in &self.layers {
            let (a, m) = (&l.attention, &l.mlp);
            all.extend([&a.q_proj, &a.k_proj, &a.v_proj, &a.o_proj, &m.gate_proj, &m.up_proj, &m.down_proj]);
        }
        all.extend(&self.lm_head);
        all
    }

    /// The same, to change.
    pub fn linears_mut(&mut self) -> Vec<&mut LinearLayer> {
        let mut all = Vec::new();
        for l in &mut self.layers {
            let (a, m) = (&mut l.attention, &mut l.mlp);
            all.extend([&mut a.q_proj, &mut a.k_proj, &mut a.v_proj, &mut a.o_proj]);
            all.extend([&mut m.gate_proj, &mut m.up_proj, &mut m.down_proj]);
        }
        all.extend(&mut self.lm_head);
        all
    }

    /// All norms.
    pub fn norms(&self) -> Vec<&Norm> {
        let layers = self.layers.iter().flat_map(|l| [&l.attention.norm, &l.mlp.norm]);
        layers.chain([&self.norm]).collect()
    }

    /// The same, to change.
    pub fn norms_mut(&mut self) -> Vec<&mut Norm> {
        let layers = self.layers.iter_mut().flat_map(|l| [&mut l.attention.norm, &mut l.mlp.norm]);
        layers.chain([&mut self.norm]).collect()
    }

    /// Gives a head that was the embedding values of its own.
    pub fn set_tied_head(&mut self, base: Base) {
        if let Some(head) = &mut self.tied_head {
            head.base = base;
        }
    }

    /// The output head.
    pub fn head(&self) -> &LinearLayer {
        self.lm_head
            .as_ref()
            .or(self.tied_head.as_ref())
            .expect("a decoder has a head of its own or a tied one")
    }

    /// Values of the base, and those of them that are parameters of their own (tied ones count once).
    pub fn base_elements(&self) -> usize {
        let a = &self.arch;
        let linears: usize =
            self.linears().iter().map(|l| l.rows * l.cols + l.bias.as_ref().map_or(0, |_| l.rows)).sum();
        a.vocab * a.hidden + linears + (2 * a.layers + 1) * a.hidden
    }

    /// How the linears are stored, for people: `f32`, `nf4`, `gguf blocks`.
    pub fn storage_name(&self) -> &'static str {
        self.layers.first().map_or("", |l| l.mlp.up_proj.base.storage_name())
    }

    fn embed(&self, pass: &Pass<'_>, ids: &[u32]) -> Result<Tensor> {
        pass.embed(&self.embed, ids, 1.0)
    }

    /// The residual stream after the last layer (before the final norm), for evaluation.
    pub fn forward(&self, pass: &Pass<'_>, tokens: Tokens<'_>) -> Result<Tensor> {
        let mut x = self.embed(pass, tokens.ids)?;
        for layer in &self.layers {
            layer.attention.forward(pass, &mut x, tokens, &self.rope, None, false)?;
            layer.mlp.forward(pass, &mut x, Keep::Nothing)?;
        }
        Ok(x)
    }

    /// The same for new tokens of cached sequences.
    pub fn forward_cached(
        &self,
        pass: &Pass<'_>,
        ids: &[u32],
        slots: &Slots,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let tokens = Tokens { ids, positions: &slots.positions, segments: &slots.segments };
        let mut x = self.embed(pass, ids)?;
        for (layer, cache) in self.layers.iter().zip(&mut cache.layers) {
            layer.attention.forward(pass, &mut x, tokens, &self.rope, Some((cache, &slots.rows)), false)?;
            layer.mlp.forward(pass, &mut x, Keep::Nothing)?;
        }
        Ok(x)
    }

    /// The lowest layer with something trained; layers below it save nothing and get no gradient.
    fn first_trained(&self, pass: &Pass<'_>) -> usize {
        if pass.trains_embedding(&self.embed) {
            return 0;
        }
        let trains = |l: &Layer| l.attention.trains(pass) || l.mlp.trains(pass);
        self.layers.iter().position(trains).unwrap_or(self.layers.len())
    }

    /// The residual stream after the last layer, and what the backward needs.
    pub fn forward_train(
        &self,
        pass: &Pass<'_>,
        tokens: Tokens<'_>,
        policy: Activations,
    ) -> Result<(Tensor, Saved)> {
        let first = self.first_trained(pass);
        let mut x = self.embed(pass, tokens.ids)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            layers.push(if i < first {
                layer.attention.forward(pass, &mut x, tokens, &self.rope, None, false)?;
                layer.mlp.forward(pass, &mut x, Keep::Nothing)?;
                None
            } else if policy == Activations::Recompute {
                // f32: the second forward must start from the same bits as the first.
                let input = elementwise::cast(pass.dev, &x, x.dtype());
                layer.attention.forward(pass, &mut x, tokens, &self.rope, None, false)?;
                layer.mlp.forward(pass, &mut x, Keep::Nothing)?;
                Some(LayerSaved::Input(input))
            } else {
                let keep = if policy == Activations::Keep { Keep::All } else { Keep::Lean };
                Some(self.layer_forward(pass, layer, &mut x, tokens, keep)?)
            });
        }
        Ok((x, Saved { layers, first }))
    }

    fn layer_forward(
        &self,
        pass: &Pass<'_>,
        layer: &Layer,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        keep: Keep,
    ) -> Result<LayerSaved> {
        let attention = layer.attention.forward(pass, x, tokens, &self.rope, None, true)?;
        let mlp = layer.mlp.forward(pass, x, keep)?;
        match (attention, mlp) {
            (Some(a), Some(m)) => Ok(LayerSaved::Kept(Box::new((a, m)))),
            _ => unreachable!("both halves were asked to keep"),
        }
    }

    /// Sums the parameters' gradients for `dx`, the gradient of the residual stream after the last layer.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        tokens: Tokens<'_>,
        saved: Saved,
        mut dx: Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let embedding = pass.trains_embedding(&self.embed);
        for (i, (layer, saved_layer)) in self.layers.iter().zip(saved.layers).enumerate().rev() {
            let Some(saved_layer) = saved_layer else { break };
            let (a, m) = match saved_layer {
                LayerSaved::Kept(both) => *both,
                LayerSaved::Input(mut x) => {
                    match self.layer_forward(pass, layer, &mut x, tokens, Keep::All)? {
                        LayerSaved::Kept(both) => *both,
                        LayerSaved::Input(_) => unreachable!("a layer that keeps gives its activations"),
                    }
                }
            };
            let need_dx = i > saved.first || embedding;
            layer.mlp.backward(pass, m, &mut dx, need_dx || layer.attention.trains(pass), grads)?;
            layer.attention.backward(pass, a, &mut dx, tokens, &self.rope, need_dx, grads)?;
        }
        if embedding {
            pass.embed_backward(&self.embed, tokens.ids, 1.0, &dx, grads)?;
        }
        Ok(())
    }

    /// Logits `[rows, V]` of the given rows of the residual stream.
    pub fn logits(&self, pass: &Pass<'_>, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let x = elementwise::gather(pass.dev, x, rows)?;
        let n = self.norm.forward(pass, &x)?;
        let ([logits], _) = pass.linears(&n, [self.head()])?;
        Ok(logits)
    }

    /// An empty cache for generation.
    pub fn cache(&self, dev: &Device, pass: &Pass<'_>, sequences: usize, capacity: usize) -> KvCache {
        let a = &self.arch;
        KvCache::new(dev, pass.precision, a.layers, a.kv_heads * a.head_dim, sequences, capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::lora::{Adapter, LoraConfig, Targets};
    use crate::model::weights::{BaseStorage, load};
    use ferrotune_kernels::Precision;
    use ferrotune_kernels::ops::attention::Segment;
    use std::path::Path;

    #[test]
    fn layers_below_the_lowest_target_save_nothing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/mistral/model");
        let dev = Device::reference();
        let (model, _) = load(&dev, &Checkpoint::open(&folder).unwrap(), BaseStorage::AsStored, 8).unwrap();
        let saved = |pattern: &str| {
            let targets = Targets::Regex(pattern.into());
            let config = LoraConfig { rank: 2, alpha: 2.0, targets, ..LoraConfig::default() };
            let adapter = Adapter::init(&dev, &model, config, 0).unwrap();
            let (params, adapted) = (&adapter.params, Some(&adapter.adapted));
            let pass = Pass { dev: &dev, precision: Precision::F32, params, adapted, dropout: None };
            let tokens = Tokens { ids: &[5, 6, 7], positions: &[0, 1, 2], segments: &[Segment::own(0, 3)] };
            let (_, saved) = model.forward_train(&pass, tokens, Activations::Keep).unwrap();
            saved.layers.iter().map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(saved(r".*\.0\..*"), [true, true]);
        assert_eq!(saved(r".*\.1\..*"), [false, true]);
        assert_eq!(saved("lm_head"), [false, false]);
    }
}
