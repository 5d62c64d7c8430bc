//! One decoder layer: attention, then (or beside it) the MLP.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Tensor};

use super::attention::{Attention, AttentionSaved, Tokens};
use super::kv_cache::LayerCache;
use super::linear::{LinearLayer, Pass};
use super::mlp::{Keep, Mlp, MlpSaved};
use super::norm::Norm;
use super::params::Gradients;
use super::rope::Rotation;
use crate::Result;

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Attention with its norms.
    pub attention: Attention,
    /// MLP with its norms.
    pub mlp: Mlp,
    /// Both read the layer's input, and their outputs are added to it together.
    pub parallel: bool,
}

/// What the backward of a layer needs.
pub type LayerSaved = Box<(AttentionSaved, MlpSaved)>;

impl Layer {
    /// Turns the residual stream before the layer into that after it.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        tokens: Tokens<'_>,
        rotations: &[Rotation<'_>],
        cache: Option<(&mut LayerCache, &[u32])>,
        keep: Keep,
    ) -> Result<Option<LayerSaved>> {
        let input = self.parallel.then(|| elementwise::cast(pass.dev, x, DType::F32));
        let rotation = self.attention.rotation.map(|i| &rotations[i]);
        let attention = self.attention.forward(pass, x, tokens, rotation, cache, keep != Keep::Nothing)?;
        let mlp = self.mlp.forward(pass, input.as_ref(), x, keep)?;
        Ok(attention.zip(mlp).map(Box::new))
    }

    /// Turns the gradient of the output, `dx`, into that of the input (if `need_dx`), and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        saved: LayerSaved,
        dx: &mut Tensor,
        tokens: Tokens<'_>,
        rotations: &[Rotation<'_>],
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        let (attention, mlp) = *saved;
        let rotation = self.attention.rotation.map(|i| &rotations[i]);
        let d_out = self.parallel.then(|| elementwise::cast(pass.dev, dx, DType::F32));
        self.mlp.backward(pass, mlp, dx, need_dx || self.attention.trains(pass), grads)?;
        self.attention.backward(pass, attention, d_out.as_ref(), dx, tokens, rotation, need_dx, grads)
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        self.attention.linears().into_iter().chain(self.mlp.linears())
    }

    /// The same, to change.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut())
    }

    /// The norms; one that both halves read is there once.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let mlp = self.mlp.norms().into_iter().filter(|n| !self.parallel || n.name != self.input_norm());
        self.attention.norms().into_iter().chain(mlp)
    }

    /// All norms, to change: one that both halves read is there twice.
    pub fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.attention.norms_mut().into_iter().chain(self.mlp.norms_mut())
    }

    fn input_norm(&self) -> &str {
        self.attention.norm.as_ref().map_or("", |n| &n.name)
    }

    /// Whether anything in here is trained.
    pub fn trains(&self, pass: &Pass<'_>) -> bool {
        self.attention.trains(pass) || self.mlp.trains(pass)
    }
}
