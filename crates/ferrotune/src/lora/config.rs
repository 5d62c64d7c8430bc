//! Constants of a LoRA adapter.

use super::targets::Targets;

/// How A starts; B starts at zero, so that the adapted model begins as the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// Uniform in `±1/sqrt(K)`: PEFT's `init_lora_weights=True` (Kaiming uniform with `a = sqrt(5)`).
    Kaiming,
    /// Normal with deviation `1/r`: PEFT's `"gaussian"`.
    Gaussian,
}

/// Rank, scale, dropout and targets of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank `r` of the branches.
    pub rank: usize,
    /// The branch is scaled by `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub alpha: f64,
    /// Dropout on the branches' input.
    pub dropout: f32,
    /// Rank-stabilised scale (Kalajdzievski 2023).
    pub rslora: bool,
    /// Start of A.
    pub init: Init,
    /// Which linears get a branch.
    pub targets: Targets,
}

impl LoraConfig {
    /// The factor `s` of the branches.
    pub fn scale(&self) -> f32 {
        let r = self.rank as f64;
        (self.alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}
