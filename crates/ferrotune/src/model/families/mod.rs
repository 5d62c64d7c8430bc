//! The one place where `model_type` is looked at: each family describes its network as an [`Architecture`].

mod llama;
mod mistral;
mod qwen2;

use super::config::{ModelConfig, RopeScaling};
use crate::{Error, Result};

/// A decoder-only network, in flat parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Vocabulary `V`.
    pub vocab: usize,
    /// Hidden size `D`.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads `G`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// MLP width `F`.
    pub ffn: usize,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of o.
    pub o_bias: bool,
    /// Biases of gate, up and down.
    pub mlp_bias: bool,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// The family's description of a checkpoint's network.
pub fn architecture(config: &ModelConfig) -> Result<Architecture> {
    match config.model_type.as_str() {
        "llama" => llama::architecture(config),
        "mistral" => mistral::architecture(config),
        "qwen2" => qwen2::architecture(config),
        other => Err(Error::config("model_type", format!("`{other}` has no family here"))),
    }
}
