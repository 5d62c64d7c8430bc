//! What layers are made of: matrices, vectors and linears, each frozen or trained. They hold the base only.

use ferrotune_kernels::{Tensor, Weight};

use super::params::ParamId;

/// Number of a head that is the embedding.
pub(crate) const TIED_HEAD: usize = usize::MAX;

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
            Base::Frozen(w) => w.format_name(),
            Base::Trained(_) => "f32",
        }
    }
}

/// A vector of the model: a norm's weight or a bias, `[1, N]`; or the taps of a convolution.
#[derive(Debug)]
pub enum Vector {
    /// Frozen.
    Frozen(Tensor),
    /// A parameter.
    Trained(ParamId),
}

impl Vector {
    /// The parameter that it is, if it is one.
    pub(crate) fn trained(&self) -> Option<ParamId> {
        match self {
            Vector::Frozen(_) => None,
            Vector::Trained(id) => Some(*id),
        }
    }

    /// Whether it is a parameter.
    pub(crate) fn is_trained(&self) -> bool {
        self.trained().is_some()
    }
}

/// A tensor of the checkpoint that is no matrix of a linear: a norm's weight, a bias, the taps of a convolution.
#[derive(Debug)]
pub struct SmallTensor<'a> {
    /// Its name.
    pub name: String,
    /// The values that it is a part of.
    pub values: &'a Vector,
    /// Which part.
    pub part: std::ops::Range<usize>,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl<'a> SmallTensor<'a> {
    /// All of these values, `len` in number.
    pub(crate) fn whole(name: String, values: &'a Vector, len: usize) -> Self {
        SmallTensor { name, values, part: 0..len, shape: vec![len] }
    }
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
