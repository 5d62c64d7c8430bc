//! What all norms have in common: rows, or the heads in them, are normalised and scaled by a weight.
//!
//! A norm is a folder of `ops` with its forward and backward, and a constant that implements [`NormOp`]; an architecture
//! names that constant.

use std::fmt::Debug;

use crate::device::Device;
use crate::dtype::DType;
use crate::error::Result;
use crate::tensor::Tensor;

/// The input of a norm and its constants.
#[derive(Clone, Copy)]
pub struct Normed<'a> {
    /// `x` `[T, D]`, f32 or bf16.
    pub x: &'a Tensor,
    /// `w` `[1, width]`, or `[1, D]` if every group has its own.
    pub weight: &'a Tensor,
    /// `b`, shaped like `w`, of norms that have one.
    pub bias: Option<&'a Tensor>,
    /// Values that are normalised together.
    pub width: usize,
    /// Added to the mean square or variance.
    pub eps: f32,
}

/// Where the gradients of weight and bias are added; what is `None` is not computed.
#[derive(Default)]
pub struct Grads<'a> {
    /// The gradient of `w`.
    pub weight: Option<&'a mut Tensor>,
    /// The gradient of `b`.
    pub bias: Option<&'a mut Tensor>,
}

/// A norm.
pub trait NormOp: Debug + Sync {
    /// Its name.
    fn name(&self) -> &'static str;

    /// Whether it has a bias.
    fn has_bias(&self) -> bool {
        false
    }

    /// The normalised rows `[T, D]` in `dtype`.
    fn forward(&self, dev: &Device, of: Normed<'_>, dtype: DType) -> Result<Tensor>;

    /// Adds the gradient of `x` to `dx`, and those that `grads` asks for. The norm is computed again.
    fn backward(
        &self,
        dev: &Device,
        of: Normed<'_>,
        dy: &Tensor,
        dx: &mut Tensor,
        grads: Grads<'_>,
    ) -> Result<()>;
}

impl PartialEq for dyn NormOp {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}
