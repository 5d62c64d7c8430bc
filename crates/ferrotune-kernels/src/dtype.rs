//! Element types and the precision table's two columns.

/// Element type of a [`Tensor`](crate::Tensor) or of a dense frozen weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float (storage only).
    F16,
    /// bfloat16: the upper half of an f32.
    Bf16,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// The name that checkpoints use (`F32`, `F16`, `BF16`).
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "F32",
            DType::F16 => "F16",
            DType::Bf16 => "BF16",
        }
    }
}

/// Which column of the precision table (ARCHITECTURE.md) a computation follows.
///
/// Accumulators, the residual stream, norms, softmax, loss, logits, adapter master weights, gradients and
/// optimizer state are f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// GEMM inputs and saved activations in f32: agrees with PEFT in float32.
    F32,
    /// GEMM inputs rounded to bf16 when they are packed; saved activations stored as bf16.
    Bf16,
}

impl Precision {
    /// Storage type of activations kept for the backward pass.
    pub fn saved(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::Bf16,
        }
    }
}
