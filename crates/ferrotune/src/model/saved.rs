//! Activations between forward and backward.

use ferrotune_kernels::ops::eight_bit::{self, Packed};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Precision, Tensor};

use super::pass::Pass;

/// What of a layer is kept for its backward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Also the widest tensors, gate and up; the backward makes them again otherwise.
    pub wide: bool,
    /// Inputs and what is multiplied wait in 8 bits. Queries and keys do not: their scores meet a log-sum-exp that was
    /// made of the exact ones.
    pub eight_bit: bool,
}

impl Keep {
    /// Everything, as it was computed.
    pub const ALL: Keep = Keep { wide: true, eight_bit: false };
}

/// An activation that waits for the backward.
#[derive(Debug)]
pub(super) enum SavedActivation {
    /// Unchanged.
    Whole(Tensor),
    /// In 8 bits.
    Packed(Packed),
}

impl SavedActivation {
    pub(super) fn new(pass: &Pass<'_>, x: Tensor, keep: Keep) -> Self {
        if keep.eight_bit {
            SavedActivation::Packed(eight_bit::pack(pass.dev, &x))
        } else {
            SavedActivation::Whole(x)
        }
    }

    /// A copy of `x` in the type that is saved.
    pub(super) fn copy_of(pass: &Pass<'_>, x: &Tensor, keep: Keep) -> Self {
        SavedActivation::new(pass, elementwise::cast(pass.dev, x, pass.precision.saved()), keep)
    }

    /// Bytes that so many values take.
    pub(super) fn nbytes(values: usize, precision: Precision, keep: Keep) -> usize {
        if keep.eight_bit { Packed::nbytes(values) } else { values * precision.saved().size() }
    }

    /// The values, in the type that they had.
    pub(super) fn take(self, pass: &Pass<'_>) -> Tensor {
        match self {
            SavedActivation::Whole(x) => x,
            SavedActivation::Packed(packed) => eight_bit::unpack(pass.dev, &packed),
        }
    }
}
