//! What a pass through a model needs besides the model: where to compute, how precisely, and what an adapter puts beside
//! its parts or in their place.
//!
//! Nothing here touches the model: a part looks up what belongs to it, by the number of a linear or by its module path, so
//! that adapters can be switched.

use std::collections::BTreeMap;

use ferrotune_kernels::ops::linear::Matrix;
use ferrotune_kernels::{Ctx, Device, Precision, Tensor, Weight};

use super::params::{Gradients, ParamId, Params};
use super::parts::{Base, LinearLayer, Vector};
use crate::Result;

/// The low-rank branch `s B A` of a linear: its parameters and constants.
#[derive(Debug, Clone, Copy)]
pub struct LowRank {
    /// `A [R, K]`.
    pub a: ParamId,
    /// `B [N, R]`.
    pub b: ParamId,
    /// A bias of B, `[1, N]`.
    pub bias: Option<ParamId>,
    /// `s`.
    pub scale: f32,
    /// Dropout on the input of A while training.
    pub dropout: f32,
}

/// What a kind of adapter does at one linear. The kinds are in [`lora::kinds`](crate::lora::kinds).
pub trait LinearAdapter: std::fmt::Debug + Send + Sync {
    /// How its output is computed.
    fn product(&self) -> Product<'_>;

    /// Changes the values of the linear's weight `[N, cols]` to those of the weight with the adapter folded in.
    fn fold(&self, params: &Params, cols: usize, weight: &mut [f32]);

    /// Changes the values of the linear's bias likewise.
    fn fold_bias(&self, _: &Params, _: &mut [f32]) {}

    /// The tensor that can be folded into no linear without a bias, if there is one.
    fn needs_bias(&self) -> Option<&'static str> {
        None
    }
}

/// How the output of a linear with an adapter is computed.
pub enum Product<'a> {
    /// The linear's own product sums the branch in the same pass.
    WithBranch(LowRank),
    /// The kind computes it by itself.
    Own(&'a dyn OwnProduct),
}

/// A linear with its adapter, forward and backward.
pub trait OwnProduct {
    /// Writes the output of the linear for `x` `[M, K]` to `y` `[M, N]` (f32), or adds it.
    fn forward(&self, at: Site<'_>, x: &Tensor, y: &mut Tensor, accumulate: bool) -> Result<()>;

    /// Adds the gradients of what is trained to `grads` and writes (or adds) that of `x`. Nothing was kept of the forward
    /// but `x`.
    fn backward(
        &self,
        at: Site<'_>,
        x: &Tensor,
        dy: &Tensor,
        dx: Dx<'_>,
        grads: &mut Gradients,
    ) -> Result<()>;
}

/// A linear in a pass.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The pass.
    pub pass: &'a Pass<'a>,
    /// The linear.
    pub linear: &'a LinearLayer,
}

/// Where the gradient of an input goes.
pub struct Dx<'t> {
    /// The tensor; `None` if nothing below needs it.
    pub out: Option<&'t mut Tensor>,
    /// Whether it is added to what is there.
    pub accumulate: bool,
}

/// Trained copies of a module's tensors.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replaced {
    /// The weight.
    pub weight: Option<ParamId>,
    /// The bias, `[1, N]`.
    pub bias: Option<ParamId>,
}

/// A branch beside the embedding.
#[derive(Debug, Clone, Copy)]
pub struct EmbeddingIds {
    /// `A [R, V]`.
    pub a: ParamId,
    /// `B [D, R]`.
    pub b: ParamId,
    /// `s`.
    pub scale: f32,
}

/// Trained rows of the embedding.
#[derive(Debug, Clone)]
pub struct TokenIds {
    /// The token of each row.
    pub ids: Vec<u32>,
    /// `[J, D]`.
    pub rows: ParamId,
}

/// All that an adapter adds or replaces.
#[derive(Debug, Default)]
pub struct Adapted {
    /// What there is at each linear, by its number.
    linears: BTreeMap<usize, Box<dyn LinearAdapter>>,
    /// Frozen weights that stand in the place of the model's own, by the linear's number: what an initialisation that
    /// moves a part of the weight into the branch leaves of it.
    pub bases: BTreeMap<usize, Weight>,
    /// Trained copies but that of the embedding, by module path.
    pub replaced: BTreeMap<String, Replaced>,
    /// A trained copy of the embedding.
    pub table: Option<ParamId>,
    /// A branch beside the embedding.
    pub embedding: Option<EmbeddingIds>,
    /// Trained rows of the embedding.
    pub tokens: Option<TokenIds>,
}

impl Adapted {
    /// What there is at a linear.
    pub fn at(&self, linear: usize) -> Option<&dyn LinearAdapter> {
        self.linears.get(&linear).map(Box::as_ref)
    }

    /// What there is at all linears, in their order.
    pub fn linears(&self) -> impl Iterator<Item = &dyn LinearAdapter> {
        self.linears.values().map(Box::as_ref)
    }

    /// Puts a kind at a linear.
    pub fn put(&mut self, linear: usize, adapter: Box<dyn LinearAdapter>) {
        self.linears.insert(linear, adapter);
    }
}

/// Makes dropout differ between steps and micro-batches.
#[derive(Debug, Clone, Copy)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// A number that no other micro-batch of the run has.
    pub step: u64,
}

/// What a pass through the model needs besides the model: where to compute, how precisely, and the trainable part.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// Where to compute.
    pub dev: &'a Device,
    /// Column of the precision table.
    pub precision: Precision,
    /// Parameters of the adapter, or of the model itself.
    pub params: &'a Params,
    /// What an adapter adds to the model, if there is one.
    pub adapted: Option<&'a Adapted>,
    /// Set in training passes.
    pub dropout: Option<DropoutKey>,
}

impl<'a> Pass<'a> {
    /// Where and how precisely its ops compute.
    pub fn ctx(&self) -> Ctx<'a> {
        self.dev.ctx(self.precision)
    }

    /// The matrix of a base.
    pub fn matrix(&self, base: &'a Base) -> Matrix<'a> {
        match base {
            Base::Frozen(w) => Matrix::Frozen(w),
            Base::Trained(id) => Matrix::Trained(self.params.factor(*id)),
        }
    }

    /// The values of a vector.
    pub fn vector(&self, v: &'a Vector) -> &'a Tensor {
        match v {
            Vector::Frozen(t) => t,
            Vector::Trained(id) => self.params.get(*id),
        }
    }

    /// What an adapter has at a linear.
    pub(super) fn adapter(&self, l: &LinearLayer) -> Option<&'a dyn LinearAdapter> {
        self.adapted?.at(l.id)
    }

    /// Trained copies of the tensors of the module with this path.
    pub fn replaced(&self, module: &str) -> Replaced {
        self.adapted.and_then(|a| a.replaced.get(module).copied()).unwrap_or_default()
    }

    /// Whether anything of the linear is trained.
    pub fn trains(&self, l: &LinearLayer) -> bool {
        self.adapter(l).is_some() || self.weight_id(l).is_some() || self.bias_id(l).is_some()
    }

    pub(super) fn weight_id(&self, l: &LinearLayer) -> Option<ParamId> {
        match l.base {
            Base::Trained(id) => Some(id),
            Base::Frozen(_) => self.replaced(&l.name).weight,
        }
    }

    pub(super) fn bias_id(&self, l: &LinearLayer) -> Option<ParamId> {
        match l.bias {
            Some(Vector::Trained(id)) => Some(id),
            _ => self.replaced(&l.name).bias,
        }
    }
}
