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
