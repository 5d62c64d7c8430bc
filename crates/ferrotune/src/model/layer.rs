//! One decoder layer: what mixes its tokens, then (or beside it) the MLP.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Precision, Tensor};

use super::mixer::{Cached, Flow, Mixer, MixerSaved, StreamGradient};
use super::mlp::{Mlp, MlpSaved};
use super::moe::{Moe, MoeSaved};
use super::norm::Norm;
use super::params::Gradients;
use super::parts::{LinearLayer, SmallTensor};
use super::pass::Pass;
use super::residual::ResidualSaved;
use super::saved::{Keep, SavedActivation};
use crate::Result;
use crate::arch::architecture::Architecture;

/// One decoder layer.
#[derive(Debug)]
pub struct Layer {
    /// Attention, or what is in its place, with its norms.
    pub mixer: Mixer,
    /// MLP or experts, with their norms.
    pub mlp: Ffn,
    /// Both read the layer's input, and their outputs are added to it together.
    pub parallel: bool,
    /// A constant that multiplies the output.
    pub scalar: Option<LayerScalar>,
}

/// `layer_scalar` of a layer: its tensor and its value.
#[derive(Debug)]
pub struct LayerScalar {
    /// The tensor in the checkpoint.
    pub name: String,
    /// The value.
    pub value: [f32; 1],
}

/// The half of a layer after (or beside) the mixer.
#[derive(Debug)]
pub enum Ffn {
    /// One MLP for all tokens.
    Dense(Mlp),
    /// A choice of experts for each token.
    Experts(Moe),
}

/// What its backward needs.
#[derive(Debug)]
pub enum FfnSaved {
    /// What an MLP keeps.
    Dense(MlpSaved),
    /// What experts keep.
    Experts(MoeSaved),
}

impl Ffn {
    fn forward(
        &self,
        pass: &Pass<'_>,
        input: Option<&Tensor>,
        x: &mut Tensor,
        keep: Option<Keep>,
    ) -> Result<Option<FfnSaved>> {
        Ok(match self {
            Ffn::Dense(mlp) => mlp.forward(pass, input, x, keep)?.map(FfnSaved::Dense),
            Ffn::Experts(moe) => moe.forward(pass, x, keep)?.map(FfnSaved::Experts),
        })
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        saved: FfnSaved,
        dx: &mut Tensor,
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<()> {
        match (self, saved) {
            (Ffn::Dense(mlp), FfnSaved::Dense(saved)) => mlp.backward(pass, saved, dx, need_dx, grads),
            (Ffn::Experts(moe), FfnSaved::Experts(saved)) => moe.backward(pass, saved, dx, need_dx, grads),
            _ => unreachable!("the forward of the same half made it"),
        }
    }

    /// The experts, if there are some.
    pub(crate) fn experts(&self) -> Option<&Moe> {
        self.each().1
    }

    fn each(&self) -> (Option<&Mlp>, Option<&Moe>) {
        match self {
            Ffn::Dense(mlp) => (Some(mlp), None),
            Ffn::Experts(moe) => (None, Some(moe)),
        }
    }

    fn each_mut(&mut self) -> (Option<&mut Mlp>, Option<&mut Moe>) {
        match self {
            Ffn::Dense(mlp) => (Some(mlp), None),
            Ffn::Experts(moe) => (None, Some(moe)),
        }
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        let (mlp, moe) = self.each();
        mlp.into_iter().flat_map(Mlp::linears).chain(moe.into_iter().flat_map(Moe::linears))
    }

    fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        let (mlp, moe) = self.each_mut();
        mlp.into_iter().flat_map(Mlp::linears_mut).chain(moe.into_iter().flat_map(Moe::linears_mut))
    }

    /// Its tensors that belong to no linear and no norm.
    pub(super) fn own_tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        self.each().0.into_iter().flat_map(Mlp::own_tensors)
    }

    /// What no training changes, as the checkpoint has it: name, shape and values.
    pub(super) fn constants(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        match self {
            Ffn::Dense(mlp) => mlp.numbers().map_or(Vec::new(), |numbers| {
                let own = |name, value| (format!("{}.{name}", numbers.name), Vec::new(), value);
                vec![own("beta", &numbers.beta[..]), own("eps", &numbers.eps[..])]
            }),
            Ffn::Experts(moe) => moe
                .correction()
                .map(|(name, values)| (name, vec![values.len()], values))
                .into_iter()
                .collect(),
        }
    }

    fn trains(&self, pass: &Pass<'_>) -> bool {
        self.norms().any(|n| n.trained(pass))
            || self.linears().any(|l| pass.trains(l))
            || self.own_tensors().any(|t| t.values.is_trained())
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let (mlp, moe) = self.each();
        mlp.into_iter().flat_map(Mlp::norms).chain(moe.into_iter().flat_map(Moe::norms))
    }

    fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        let (mlp, moe) = self.each_mut();
        mlp.into_iter().flat_map(Mlp::norms_mut).chain(moe.into_iter().flat_map(Moe::norms_mut))
    }
}

impl FfnSaved {
    /// Bytes that a token takes in it, without those of branches; with experts, those of its own ones.
    fn bytes_per_token(a: &Architecture, layer: usize, precision: Precision, keep: Keep) -> usize {
        let width = a.hidden_width_of(layer);
        let wide = if keep.wide { SavedActivation::nbytes(width, precision, keep) } else { 0 };
        SavedActivation::nbytes(a.hidden, precision, keep)
            + wide
            + ResidualSaved::bytes_per_token(a, precision)
    }
}

/// What the backward of a layer needs.
pub type LayerSaved = (MixerSaved, FfnSaved);

/// Bytes that a token takes in the saved activations of a layer, without those of branches.
pub(super) fn saved_bytes_per_token(
    a: &Architecture,
    layer: usize,
    precision: Precision,
    keep: Keep,
) -> usize {
    MixerSaved::bytes_per_token(a, layer, precision, keep)
        + FfnSaved::bytes_per_token(a, layer, precision, keep)
}

/// Bytes that a token takes for the keys and values of a layer that later ones use; their gradients are f32.
pub(crate) fn shared_per_token(a: &Architecture, layer: usize, precision: Precision) -> usize {
    match a.gives_keys(layer) {
        true => 2 * a.qk_width(layer).1 * (precision.saved().size() + 4),
        false => 0,
    }
}

/// Bytes that a token takes while a layer is at work, at its widest moment: gate and up, their gradients, the packed
/// operands of a product, and the residual stream twice.
pub(crate) fn workspace_per_token(a: &Architecture, precision: Precision) -> usize {
    let narrow = if precision.saved() == DType::F32 { 1 } else { 2 };
    let widest = a.widest_ffn().max(a.mixing_width());
    4 * widest * 4 + 2 * widest * 4 / narrow + 6 * a.hidden * 4
}

/// Bytes that a token takes while the activations of a layer are taken out of their 8 bits.
pub(crate) fn unpacked_per_token(a: &Architecture, precision: Precision) -> usize {
    (a.hidden + a.hidden_width()) * precision.saved().size()
}

impl Layer {
    /// Turns the residual stream before the layer into that after it.
    pub fn forward(
        &self,
        pass: &Pass<'_>,
        x: &mut Tensor,
        flow: &mut Flow<'_>,
        cache: Option<Cached<'_>>,
        keep: Option<Keep>,
    ) -> Result<Option<LayerSaved>> {
        let input = self.parallel.then(|| elementwise::cast(pass.dev, x, DType::F32));
        let mixer = self.mixer.forward(pass, x, flow, cache, keep)?;
        let mlp = self.mlp.forward(pass, input.as_ref(), x, keep)?;
        if let Some(scalar) = &self.scalar {
            elementwise::scale(pass.dev, x, scalar.value[0]);
        }
        Ok(mixer.zip(mlp))
    }

    /// Turns the gradient of the output, `dx`, into that of the input (if `need_dx`), and sums the parameters'.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        saved: LayerSaved,
        (dx, need_dx): (&mut Tensor, bool),
        flow: &mut Flow<'_>,
        grads: &mut Gradients,
    ) -> Result<()> {
        let (mixer, mlp) = saved;
        if let Some(scalar) = &self.scalar {
            elementwise::scale(pass.dev, dx, scalar.value[0]);
        }
        let d_out = self.parallel.then(|| elementwise::cast(pass.dev, dx, DType::F32));
        self.mlp.backward(pass, mlp, dx, need_dx || self.mixer.trains(pass), grads)?;
        let stream = StreamGradient { d_out: d_out.as_ref(), dx, need_dx };
        self.mixer.backward(pass, mixer, stream, flow, grads)
    }

    /// What no training changes, as the checkpoint has it: name, shape and values.
    pub(super) fn constants(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let scalar = self.scalar.iter().map(|s| (s.name.clone(), vec![1], &s.value[..]));
        self.mlp.constants().into_iter().chain(scalar).collect()
    }

    /// The linears, in the order of their numbers.
    pub fn linears(&self) -> impl Iterator<Item = &LinearLayer> {
        self.mixer.linears().into_iter().chain(self.mlp.linears())
    }

    /// The linears that are modules of their own in transformers 5, which stacks experts and has routers of another kind.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &LinearLayer> {
        let (mlp, moe) = self.mlp.each();
        let mlp = mlp.into_iter().flat_map(Mlp::linears);
        self.mixer.linears().into_iter().chain(mlp).chain(moe.into_iter().flat_map(Moe::modules))
    }

    /// The linears, mutable.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut LinearLayer> {
        self.mixer.linears_mut().into_iter().chain(self.mlp.linears_mut())
    }

    /// The norms; one that both halves read is there once.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let mlp = self.mlp.norms().filter(|n| !self.parallel || n.name != self.input_norm());
        self.mixer.norms().into_iter().chain(mlp)
    }

    /// All norms, to change: one that both halves read is there twice.
    pub(crate) fn norms_mut(&mut self) -> impl Iterator<Item = &mut Norm> {
        self.mixer.norms_mut().into_iter().chain(self.mlp.norms_mut())
    }

    fn input_norm(&self) -> &str {
        self.mixer.input_norm().map_or("", |n| &n.name)
    }

    /// Whether anything in here is trained.
    pub fn trains(&self, pass: &Pass<'_>) -> bool {
        self.mixer.trains(pass) || self.mlp.trains(pass)
    }
}
