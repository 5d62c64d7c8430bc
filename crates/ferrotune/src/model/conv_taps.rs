//! Convolutions of every channel by itself, which short convolutions and recurrences begin with.

use ferrotune_kernels::ops::causal_conv::{self, Around, Conv, Grads};
use ferrotune_kernels::{DType, Device, Tensor};

use super::params::Gradients;
use super::parts::{SmallTensor, Vector};
use super::pass::Pass;
use super::tokens::Tokens;
use crate::Result;

/// Taps of a convolution of every channel by itself.
#[derive(Debug)]
pub struct ConvTaps {
    /// Module path, `model.layers.0.conv.conv`.
    pub name: String,
    /// `w [C, K]`; `[C, 1, K]` in files.
    pub weight: Vector,
    /// `b [1, C]`.
    pub bias: Option<Vector>,
    /// Channels `C` and taps `K`.
    pub shape: [usize; 2],
}

impl ConvTaps {
    /// Its tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = SmallTensor<'_>> {
        let [c, k] = self.shape;
        let weight = SmallTensor {
            name: format!("{}.weight", self.name),
            values: &self.weight,
            part: 0..c * k,
            shape: vec![c, 1, k],
        };
        let bias = self.bias.iter().map(move |b| SmallTensor::whole(format!("{}.bias", self.name), b, c));
        std::iter::once(weight).chain(bias)
    }

    /// Whether it is trained.
    pub(super) fn trains(&self) -> bool {
        self.weight.is_trained()
    }

    /// The op over these rows.
    pub(super) fn over<'a>(
        &'a self,
        pass: &Pass<'a>,
        x: &'a Tensor,
        around: Around,
        tokens: Tokens<'a>,
    ) -> Conv<'a> {
        let bias = self.bias.as_ref().map(|b| pass.vector(b));
        Conv { x, weight: pass.vector(&self.weight), bias, around, segments: tokens.segments }
    }

    /// The gradient of `conv.x`; those of taps and bias are summed if they are trained.
    pub(super) fn backward(
        &self,
        pass: &Pass<'_>,
        conv: Conv<'_>,
        dy: &Tensor,
        dtype: DType,
        grads: &mut Gradients,
    ) -> Result<Tensor> {
        let ids = [Some(&self.weight), self.bias.as_ref()].map(|v| v.and_then(Vector::trained));
        let [mut weight, mut bias] = grads.take_all(ids);
        let sinks = Grads { weight: weight.as_mut(), bias: bias.as_mut() };
        let dx = causal_conv::backward(pass.dev, conv, dy, dtype, sinks);
        grads.put_back(ids, [weight, bias]);
        Ok(dx?)
    }

    /// What so many sequences carry on, before they begin.
    pub(super) fn states(&self, dev: &Device, sequences: usize) -> Tensor {
        let [c, k] = self.shape;
        dev.zeros(sequences * (k - 1), c)
    }
}
