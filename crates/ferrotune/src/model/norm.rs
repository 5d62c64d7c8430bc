//! RMS and layer norms with frozen or trained weights, over whole rows or over the heads in them.

use std::ops::Range;

use ferrotune_kernels::ops::layer_norm::{self, LayerNorm};
use ferrotune_kernels::ops::rms_norm::{self, RmsNorm};
use ferrotune_kernels::{DType, Tensor};

use super::params::{Gradients, ParamId};
use super::parts::Vector;
use super::pass::Pass;
use crate::Result;
use crate::arch::architecture::NormKind;

/// A norm under its checkpoint name.
#[derive(Debug)]
pub struct Norm {
    /// Module path, `model.layers.0.input_layernorm`.
    pub name: String,
    /// What is computed.
    pub kind: NormKind,
    /// `w [1, D]`, or `[1, width]` for all heads.
    pub weight: Vector,
    /// `b`, shaped like `w`.
    pub bias: Option<Vector>,
    /// Values that are normalised together.
    pub width: usize,
    /// Added to the mean square or variance.
    pub eps: f32,
    /// Modules that the checkpoint has for the heads: their weights lie one after the other in `weight`.
    pub heads: Option<usize>,
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

    /// The checkpoint's tensors: name, vector, and the part of the vector that the tensor is.
    pub fn tensors(&self) -> Vec<(String, &Vector, Range<usize>)> {
        match self.heads {
            Some(heads) => (0..heads)
                .map(|h| {
                    let part = h * self.width..(h + 1) * self.width;
                    (format!("{}.norms.{h}.weight", self.name), &self.weight, part)
                })
                .collect(),
            None => {
                let bias = self.bias.iter().map(|b| (format!("{}.bias", self.name), b, 0..usize::MAX));
                let weight = (format!("{}.weight", self.name), &self.weight, 0..usize::MAX);
                std::iter::once(weight).chain(bias).collect()
            }
        }
    }

    fn rms(&self) -> RmsNorm {
        let offset = if self.kind == NormKind::RmsOnePlus { 1.0 } else { 0.0 };
        RmsNorm { width: self.width, eps: self.eps, offset }
    }

    fn layer(&self) -> LayerNorm {
        LayerNorm { width: self.width, eps: self.eps }
    }

    /// The normalised rows in `dtype`.
    pub fn forward(&self, pass: &Pass<'_>, x: &Tensor, dtype: DType) -> Result<Tensor> {
        let [weight, bias] = self.ids(pass);
        let weight = Self::values(pass, &self.weight, weight);
        Ok(match self.kind {
            NormKind::Rms | NormKind::RmsOnePlus => {
                rms_norm::forward(pass.dev, x, weight, self.rms(), dtype)?
            }
            NormKind::Layer => {
                let bias = self.bias.as_ref().map(|b| Self::values(pass, b, bias));
                layer_norm::forward(pass.dev, x, weight, bias, self.layer(), dtype)?
            }
        })
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
        let [mut dw, mut db] = ids.map(|id| id.and_then(|id| grads.take(id)));
        let weight = Self::values(pass, &self.weight, ids[0]);
        let result = match self.kind {
            NormKind::Rms | NormKind::RmsOnePlus => {
                rms_norm::backward(pass.dev, x, weight, self.rms(), dy, dx, dw.as_mut())
            }
            NormKind::Layer => {
                let sinks = layer_norm::Grads { weight: dw.as_mut(), bias: db.as_mut() };
                layer_norm::backward(pass.dev, x, weight, self.layer(), dy, dx, sinks)
            }
        };
        for (id, gradient) in ids.into_iter().zip([dw, db]) {
            if let (Some(id), Some(gradient)) = (id, gradient) {
                grads.put(id, gradient);
            }
        }
        Ok(result?)
    }
}
