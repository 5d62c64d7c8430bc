//! `h = Wx + s BAx + b`: one linear, frozen or trained, with room for a LoRA branch.
//!
//! A [`LinearLayer`] holds the base only. Which branch stands beside it is looked up in the [`Pass`], by the linear's
//! number, so that adapters can be switched without touching the model.

use ferrotune_kernels::ops::elementwise::Dropout;
use ferrotune_kernels::ops::linear::{self, Branch, Grads, Linear, Matrix};
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device, Precision, Tensor, Weight};

use super::params::{Gradients, ParamId, Params};
use crate::Result;

/// A weight matrix of the model.
#[derive(Debug)]
pub enum Base {
    /// Frozen, in any storage format.
    Frozen(Weight),
    /// A parameter (full fine-tuning).
    Trained(ParamId),
}

impl Base {
    /// How the values are stored, for people.
    pub fn storage_name(&self) -> &'static str {
        match self {
            Base::Frozen(w) => match w.storage() {
                Storage::Dense(DType::F32, _) => "f32",
                Storage::Dense(DType::F16, _) => "f16",
                Storage::Dense(DType::Bf16, _) => "bf16",
                Storage::FourBit(bits) => bits.kind().name(),
                Storage::Int8(_) => "int8",
                _ => "gguf blocks",
            },
            Base::Trained(_) => "f32",
        }
    }
}

/// A vector of the model: a norm's weight or a bias, `[1, N]`.
#[derive(Debug)]
pub enum Vector {
    /// Frozen.
    Frozen(Tensor),
    /// A parameter.
    Trained(ParamId),
}

/// One linear of the model under its checkpoint name.
#[derive(Debug)]
pub struct LinearLayer {
    /// Number among the model's linears, in the order of [`Decoder::linears`](super::decoder::Decoder::linears).
    pub id: usize,
    /// Module path, `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Output features `N`.
    pub rows: usize,
    /// Input features `K`.
    pub cols: usize,
    /// `W [N, K]`.
    pub base: Base,
    /// `b [1, N]`.
    pub bias: Option<Vector>,
}

/// The parameters of a branch, and its constants.
#[derive(Debug, Clone, Copy)]
pub struct BranchIds {
    /// `A [R, K]`.
    pub a: ParamId,
    /// `B [N, R]`.
    pub b: ParamId,
    /// `s`.
    pub scale: f32,
    /// Dropout on the input of A while training.
    pub dropout: f32,
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
    /// Parameters of the branches, or of the model itself.
    pub params: &'a Params,
    /// The branch of each linear, by its number; empty without an adapter.
    pub branches: &'a [Option<BranchIds>],
    /// Set in training passes.
    pub dropout: Option<DropoutKey>,
}

impl<'a> Pass<'a> {
    /// The matrix of a base.
    pub fn matrix(&self, base: &'a Base) -> Matrix<'a> {
        match base {
            Base::Frozen(w) => Matrix::Frozen(w),
            Base::Trained(id) => Matrix::Trained(self.params.get(*id)),
        }
    }

    /// The values of a vector.
    pub fn vector(&self, v: &'a Vector) -> &'a Tensor {
        match v {
            Vector::Frozen(t) => t,
            Vector::Trained(id) => self.params.get(*id),
        }
    }

    fn branch(&self, id: usize) -> Option<BranchIds> {
        self.branches.get(id).copied().flatten()
    }

    /// Whether anything of the linear is trained.
    pub fn trains(&self, l: &LinearLayer) -> bool {
        self.branch(l.id).is_some() || matches!(l.base, Base::Trained(_))
    }

    fn view(&self, l: &'a LinearLayer) -> Linear<'a> {
        let branch = self.branch(l.id).map(|ids| Branch {
            a: self.params.get(ids.a),
            b: self.params.get(ids.b),
            scale: ids.scale,
            dropout: self
                .dropout
                .filter(|_| ids.dropout > 0.0)
                .map(|key| Dropout { p: ids.dropout, stream: Stream::new(key.seed, &l.name, key.step) }),
        });
        Linear { weight: self.matrix(&l.base), bias: l.bias.as_ref().map(|b| self.vector(b)), branch }
    }

    /// Outputs of linears that read the same `x`, and `H` of their branches for the backward.
    pub fn linears<const N: usize>(
        &self,
        x: &Tensor,
        layers: [&'a LinearLayer; N],
    ) -> Result<([Tensor; N], Option<Tensor>)> {
        let mut outs = layers.map(|l| self.dev.empty(x.rows(), l.rows));
        let h = linear::forward(
            self.dev,
            self.precision,
            x,
            &layers.map(|l| self.view(l)),
            &mut outs.each_mut(),
            false,
        )?;
        Ok((outs, h))
    }

    /// Adds the output of a linear to `y` (the residual stream); gives `H`.
    pub fn linear_onto(&self, x: &Tensor, layer: &'a LinearLayer, y: &mut Tensor) -> Result<Option<Tensor>> {
        Ok(linear::forward(self.dev, self.precision, x, &[self.view(layer)], &mut [y], true)?)
    }

    /// Adds the parameters' gradients to `grads` and gives `dX`, unless nothing below needs it.
    pub fn linears_backward<const N: usize>(
        &self,
        x: &Tensor,
        h: Option<&Tensor>,
        layers: [&'a LinearLayer; N],
        dys: [&Tensor; N],
        need_dx: bool,
        grads: &mut Gradients,
    ) -> Result<Option<Tensor>> {
        let mut dx = need_dx.then(|| self.dev.empty(x.rows(), x.cols()));
        // (weight, bias, A, B) of each linear leave the store while the op adds to them.
        let ids = layers.map(|l| {
            let trained = |v: &Option<Vector>| match v {
                Some(Vector::Trained(id)) => Some(*id),
                _ => None,
            };
            let weight = if let Base::Trained(id) = l.base { Some(id) } else { None };
            let branch = self.branch(l.id);
            [weight, trained(&l.bias), branch.map(|b| b.a), branch.map(|b| b.b)]
        });
        let mut taken = ids.map(|four| four.map(|id| id.and_then(|id| grads.take(id))));
        let mut sinks: Vec<Grads<'_>> = taken
            .iter_mut()
            .map(|[weight, bias, a, b]| Grads {
                weight: weight.as_mut(),
                bias: bias.as_mut(),
                a: a.as_mut(),
                b: b.as_mut(),
            })
            .collect();
        let views = layers.map(|l| self.view(l));
        let result =
            linear::backward(self.dev, self.precision, x, h, &views, &dys, dx.as_mut(), false, &mut sinks);
        drop(sinks);
        for (ids, tensors) in ids.into_iter().zip(taken) {
            for (id, tensor) in ids.into_iter().zip(tensors) {
                if let (Some(id), Some(tensor)) = (id, tensor) {
                    grads.put(id, tensor);
                }
            }
        }
        result?;
        Ok(dx)
    }
}
