//! RMS and layer norms with frozen or trained weights, over whole rows or over the heads in them.

use ferrotune_kernels::ops::norm::{Grads, NormOp, Normed};
use ferrotune_kernels::ops::rms_norm::{self, RmsNorm};
use ferrotune_kernels::{DType, Device, Tensor};

use super::params::{Gradients, ParamId};
use super::parts::{SmallTensor, Vector};
use super::pass::Pass;
use crate::Result;

/// A norm under its checkpoint name.
#[derive(Debug)]
pub struct Norm {
    /// Module path, `model.layers.0.input_layernorm`.
    pub name: String,
    /// What is computed.
    pub op: &'static dyn NormOp,
    /// `w [1, D]`, or `[1, width]` for all heads.
    pub weight: Vector,
    /// `b`, shaped like `w`.
    pub bias: Option<Vector>,
    /// Values that are normalised together.
    pub width: usize,
    /// Added to the mean square or variance.
    pub eps: f32,
    /// What the weights in `weight` belong to.
    pub of: NormOf,
}

/// What the weights of a norm belong to, where a row has several parts that are normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOf {
    /// All parts, which have the same.
    All,
    /// So many parts, with weights of their own in one tensor.
    Groups(usize),
    /// So many heads, for each of which the checkpoint has a module.
    Modules(usize),
}

/// An RMS norm of heads whose weight is a constant, which no checkpoint has.
#[derive(Debug)]
pub struct FixedNorm {
    /// `[1, head width]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

impl FixedNorm {
    /// The same weight for all of a head.
    pub(crate) fn new(dev: &Device, width: usize, weight: f32, eps: f32) -> Self {
        FixedNorm { weight: dev.tensor(1, width, &vec![weight; width]), eps }
    }

    fn op(&self) -> RmsNorm {
        RmsNorm { width: self.weight.cols(), eps: self.eps, offset: 0.0 }
    }

    /// The normalised rows in `dtype`.
    pub(super) fn forward(&self, pass: &Pass<'_>, x: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(rms_norm::forward(pass.dev, x, &self.weight, self.op(), dtype)?)
    }

    /// The gradient of `x`.
    pub(super) fn backward(&self, pass: &Pass<'_>, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        let mut dx = pass.dev.zeros(x.rows(), x.cols());
        rms_norm::backward(pass.dev, x, &self.weight, self.op(), dy, &mut dx, None)?;
        Ok(dx)
    }
}

impl Norm {
    /// Whether anything is trained.
    pub fn trained(&self, pass: &Pass<'_>) -> bool {
        self.ids(pass).iter().any(Option::is_some)
    }

    /// The parameters that weight and bias are.
    fn ids(&self, pass: &Pass<'_>) -> [Option<ParamId>; 2] {
        let copy = pass.replaced(&self.name);
        let trained = |v: Option<&Vector>, copy| match v {
            Some(Vector::Trained(id)) => Some(*id),
            _ => copy,
        };
        [trained(Some(&self.weight), copy.weight), trained(self.bias.as_ref(), copy.bias)]
    }

    fn values<'a>(pass: &Pass<'a>, own: &'a Vector, id: Option<ParamId>) -> &'a Tensor {
        id.map_or_else(|| pass.vector(own), |id| pass.params.get(id))
    }

    /// Weights of one tensor of the checkpoint.
    pub(crate) fn len(&self) -> usize {
        match self.of {
            NormOf::Groups(groups) => groups * self.width,
            NormOf::All | NormOf::Modules(_) => self.width,
        }
    }

    /// The checkpoint's tensors.
    pub fn tensors(&self) -> Vec<SmallTensor<'_>> {
        let tensor = |name, values| SmallTensor::whole(name, values, self.len());
        match self.of {
            NormOf::Modules(heads) => (0..heads)
                .map(|h| {
                    let part = h * self.width..(h + 1) * self.width;
                    let name = format!("{}.norms.{h}.weight", self.name);
                    SmallTensor { part, ..tensor(name, &self.weight) }
                })
                .collect(),
            NormOf::All | NormOf::Groups(_) => {
                let bias = self.bias.iter().map(|b| tensor(format!("{}.bias", self.name), b));
                let weight = tensor(format!("{}.weight", self.name), &self.weight);
                std::iter::once(weight).chain(bias).collect()
            }
        }
    }

    fn of<'t>(&'t self, pass: &Pass<'t>, x: &'t Tensor, ids: [Option<ParamId>; 2]) -> Normed<'t> {
        Normed {
            x,
            weight: Self::values(pass, &self.weight, ids[0]),
            bias: self.bias.as_ref().map(|b| Self::values(pass, b, ids[1])),
            width: self.width,
            eps: self.eps,
        }
    }

    /// The normalised rows in `dtype`.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor, dtype: DType) -> Result<Tensor> {
        Ok(self.op.forward(pass.dev, self.of(pass, x, self.ids(pass)), dtype)?)
    }

    /// Adds the gradient of `x` to `dx`, and those of a trained weight and bias to `grads`.
    pub fn backward(
        &self,
        pass: &Pass<'_>,
        x: &Tensor,
        dy: &Tensor,
        dx: &mut Tensor,
        grads: &mut Gradients,
    ) -> Result<()> {
        let ids = self.ids(pass);
        let [mut dw, mut db] = grads.take_all(ids);
        let sinks = Grads { weight: dw.as_mut(), bias: db.as_mut() };
        let result = self.op.backward(pass.dev, self.of(pass, x, ids), dy, dx, sinks);
        grads.put_back(ids, [dw, db]);
        Ok(result?)
    }
}
