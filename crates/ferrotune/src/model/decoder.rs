//! The network: embedding, layers, final norm, head; what is saved per layer is a policy of the caller.

use ferrotune_kernels::ops::{elementwise, softmax_xent};
use ferrotune_kernels::{DType, Device, Tensor};

use super::kv_cache::{KvCache, Slots};
use super::layer::{Layer, LayerSaved};
use super::mixer::Flow;
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{Base, LinearLayer, SmallTensor};
use super::pass::Pass;
use super::policy::Policies;
use super::rope::{Rotary, Rotation};
use super::saved::Keep;
use super::shared_keys::SharedKeys;
use super::streaming::Reader;
use super::tokens::Tokens;
use crate::Result;
use crate::arch::architecture::Architecture;

mod offload;

/// The network.
#[derive(Debug)]
pub struct Decoder {
    /// Sizes and constants.
    pub arch: Architecture,
    /// `embed_tokens`, `[V, D]`.
    pub embed: Base,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The norm behind the layers.
    pub norm: Norm,
    /// `lm_head`; `None` if it is the embedding.
    pub lm_head: Option<LinearLayer>,
    /// The rotary embeddings that layers use.
    pub ropes: Vec<Rotary>,
    /// Who reads frozen layers ahead, if they leave memory behind the work of a pass.
    pub(crate) reader: Option<Reader>,
    /// Whether activations wait for the backward of a training pass in 8 bits.
    pub eight_bit: bool,
    /// The embedding as a head, when it is tied.
    pub(crate) tied_head: Option<LinearLayer>,
}

/// A layer's saved activations under the policy that made them.
#[expect(
    clippy::large_enum_variant,
    reason = "one for each layer, in a list that is there from step to step"
)]
enum Stored {
    Kept(LayerSaved),
    Input(Tensor),
}

/// What a forward pass saved.
pub struct Saved {
    layers: Vec<Option<Stored>>,
    first: usize,
    shared: SharedKeys,
}

/// A backward pass on its way down.
pub struct Backward<'a> {
    model: &'a Decoder,
    tokens: Tokens<'a>,
    rotations: Vec<Rotation<'a>>,
    saved: Saved,
    dx: Tensor,
}

impl Backward<'_> {
    /// The uppermost layer that is left; whether there was one.
    pub fn layer(&mut self, pass: &Pass<'_>, grads: &mut Gradients) -> Result<bool> {
        let (model, first) = (self.model, self.saved.first);
        let Some(stored) = self.saved.layers.pop().flatten() else { return Ok(false) };
        let i = self.saved.layers.len();
        let layer = &model.layers[i];
        let shared = &mut self.saved.shared;
        let mut flow = Flow { tokens: self.tokens, rotations: &self.rotations, shared };
        model.read_ahead(i.checked_sub(1).filter(|below| *below >= first));
        let kept = match stored {
            Stored::Kept(kept) => Some(kept),
            Stored::Input(mut x) => layer.forward(pass, &mut x, &mut flow, None, Some(Keep::ALL))?,
        };
        let Some(kept) = kept else { unreachable!("a layer that keeps gives its activations") };
        let need_dx = i > first || pass.trains_embedding(&model.embed);
        layer.backward(pass, kept, (&mut self.dx, need_dx), &mut flow, grads)?;
        model.leave(i);
        Ok(true)
    }

    /// The embedding, after all layers.
    pub fn finish(self, pass: &Pass<'_>, grads: &mut Gradients) -> Result<()> {
        let model = self.model;
        if pass.trains_embedding(&model.embed) {
            pass.embed_backward(&model.embed, self.tokens.ids, model.arch.embed_scale, &self.dx, grads)?;
        }
        Ok(())
    }
}

impl Decoder {
    /// All linears that an adapter can target: those that the model has weights for, and a head that is the embedding.
    pub fn targets(&self) -> Vec<&LinearLayer> {
        let tied = self.tied_head.as_ref().filter(|_| self.lm_head.is_none());
        self.linears().into_iter().chain(tied).collect()
    }

    /// All linears that have a weight of their own, in the order of their numbers.
    pub fn linears(&self) -> Vec<&LinearLayer> {
        self.layers.iter().flat_map(Layer::linears).chain(&self.lm_head).collect()
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut LinearLayer> {
        self.layers.iter_mut().flat_map(Layer::linears_mut).chain(&mut self.lm_head).collect()
    }

    /// All norms.
    pub fn norms(&self) -> Vec<&Norm> {
        self.layers.iter().flat_map(Layer::norms).chain([&self.norm]).collect()
    }

    /// All norms, to change.
    pub(crate) fn norms_mut(&mut self) -> Vec<&mut Norm> {
        self.layers.iter_mut().flat_map(Layer::norms_mut).chain([&mut self.norm]).collect()
    }

    /// Gives a head that was the embedding values of its own.
    pub(crate) fn set_tied_head(&mut self, base: Base) {
        if let Some(head) = &mut self.tied_head {
            head.base = base;
        }
    }

    /// All tensors of the checkpoint that are no matrices of linears.
    pub fn small_tensors(&self) -> Vec<SmallTensor<'_>> {
        let biases = self.linears().into_iter().filter_map(|l| {
            let bias = l.bias.as_ref()?;
            Some(SmallTensor::whole(format!("{}.bias", l.name), bias, l.rows))
        });
        let own = |layer| {
            let Layer { mixer, mlp, .. }: &Layer = layer;
            mixer.own_tensors().into_iter().chain(mlp.own_tensors())
        };
        let own = self.layers.iter().flat_map(own);
        self.norms().into_iter().flat_map(Norm::tensors).chain(own).chain(biases).collect()
    }

    /// What no training changes, as the checkpoint has it: name, shape and values.
    pub fn constants(&self) -> impl Iterator<Item = (String, Vec<usize>, &[f32])> {
        self.layers.iter().flat_map(Layer::constants)
    }

    /// The output head.
    pub fn head(&self) -> &LinearLayer {
        self.lm_head
            .as_ref()
            .or(self.tied_head.as_ref())
            .expect("a decoder has a head of its own or a tied one")
    }

    /// Values of the base; tied ones count once.
    pub(crate) fn base_elements(&self) -> usize {
        let linears = self.linears().into_iter().map(|l| l.rows * l.cols);
        let small = self.small_tensors().into_iter().map(|t| t.part.len());
        self.arch.vocab * self.arch.hidden + linears.chain(small).sum::<usize>()
    }

    /// How the linears are stored, for people: `f32`, `nf4`, `gguf blocks`.
    pub fn storage_name(&self) -> &'static str {
        self.layers.first().and_then(|l| l.mlp.linears().last()).map_or("", |l| l.base.storage_name())
    }

    fn embed(&self, pass: &Pass<'_>, ids: &[u32]) -> Result<Tensor> {
        match self.apart() {
            Some(table) => self.gather(pass, table, ids),
            None => pass.embed(&self.embed, ids, self.arch.embed_scale),
        }
    }

    /// The rotations of a pass, in the order of [`Decoder::ropes`].
    fn rotations<'a>(&'a self, dev: &Device, tokens: Tokens<'a>) -> Result<Vec<Rotation<'a>>> {
        self.ropes.iter().map(|rotary| rotary.at(dev, tokens)).collect()
    }

    /// The residual stream after the last layer (before the final norm), for evaluation.
    pub fn forward(&self, pass: &Pass<'_>, tokens: Tokens<'_>) -> Result<Tensor> {
        let rotations = self.rotations(pass.dev, tokens)?;
        let mut shared = SharedKeys::default();
        let mut flow = Flow { tokens, rotations: &rotations, shared: &mut shared };
        let mut x = self.embed(pass, tokens.ids)?;
        for (i, layer) in self.layers.iter().enumerate() {
            self.read_ahead(Some(i + 1));
            layer.forward(pass, &mut x, &mut flow, None, None)?;
            self.leave(i);
        }
        Ok(x)
    }

    /// The forward pass of new tokens of cached sequences.
    pub(crate) fn forward_cached(
        &self,
        pass: &Pass<'_>,
        ids: &[u32],
        slots: &Slots,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let tokens = Tokens { ids, positions: &slots.positions, segments: &slots.segments };
        let rotations = self.rotations(pass.dev, tokens)?;
        let mut shared = SharedKeys::default();
        let mut flow = Flow { tokens, rotations: &rotations, shared: &mut shared };
        let mut x = self.embed(pass, ids)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let cache = &mut cache.layers[layer.mixer.takes().unwrap_or(i)];
            layer.forward(pass, &mut x, &mut flow, Some((cache, slots)), None)?;
        }
        Ok(x)
    }

    /// The lowest layer with something trained; layers below it save nothing and get no gradient.
    fn first_trained(&self, pass: &Pass<'_>) -> usize {
        if pass.trains_embedding(&self.embed) {
            return 0;
        }
        self.layers.iter().position(|l| l.trains(pass)).unwrap_or(self.layers.len())
    }

    /// The residual stream after the last layer, and what the backward needs.
    pub fn forward_train(
        &self,
        pass: &Pass<'_>,
        tokens: Tokens<'_>,
        policies: impl Into<Policies>,
    ) -> Result<(Tensor, Saved)> {
        let policies = policies.into();
        let first = self.first_trained(pass);
        let rotations = self.rotations(pass.dev, tokens)?;
        let mut shared = SharedKeys::default();
        let mut flow = Flow { tokens, rotations: &rotations, shared: &mut shared };
        let mut x = self.embed(pass, tokens.ids)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        for (i, layer) in self.layers.iter().enumerate() {
            self.read_ahead(Some(i + 1));
            let policy = policies.for_layer(i, self.layers.len());
            let keep = policy.keep(self.eight_bit).filter(|_| i >= first);
            // f32: the second forward must start from the same bits as the first.
            let input = (i >= first && keep.is_none()).then(|| elementwise::cast(pass.dev, &x, x.dtype()));
            let saved = layer.forward(pass, &mut x, &mut flow, None, keep)?;
            layers.push(input.map(Stored::Input).or(saved.map(Stored::Kept)));
            // The backward begins with the last one.
            if i + 1 < self.layers.len() {
                self.leave(i);
            }
        }
        Ok((x, Saved { layers, first, shared }))
    }

    /// Sums the parameters' gradients for `dx`, the gradient of the residual stream after the last layer.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        tokens: Tokens<'_>,
        saved: Saved,
        dx: Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let mut backward = self.start_backward(pass.dev, tokens, saved, dx)?;
        while backward.layer(pass, grads)? {}
        backward.finish(pass, grads)
    }

    /// The backward pass layer by layer: between two layers the parameters of those that are done may change.
    pub(crate) fn start_backward<'a>(
        &'a self,
        dev: &Device,
        tokens: Tokens<'a>,
        saved: Saved,
        dx: Tensor,
    ) -> Result<Backward<'a>> {
        self.leave_head();
        let rotations = self.rotations(dev, tokens)?;
        Ok(Backward { model: self, tokens, rotations, saved, dx })
    }

    /// Logits `[rows, V]` of the given rows of the residual stream.
    pub fn logits(&self, pass: &Pass<'_>, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let x = elementwise::gather(pass.dev, x, rows)?;
        let n = self.norm.forward(pass, &x, pass.precision.saved())?;
        let ([mut logits], _) = pass.linears(&n, [self.head()], DType::F32)?;
        softmax_xent::logits(pass.dev, &mut logits, self.arch.logits);
        Ok(logits)
    }

    /// An empty cache for generation.
    pub fn cache(&self, dev: &Device, pass: &Pass<'_>, sequences: usize, capacity: usize) -> KvCache {
        let layers = self.layers.iter();
        let layers = layers.map(|layer| layer.mixer.cache(dev, pass.precision, sequences, capacity));
        KvCache::new(layers.collect(), sequences, capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::Checkpoint;
    use crate::load::{BaseStorage, load};
    use crate::lora::{Adapter, LoraConfig, Targets};
    use crate::model::Activations;
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
