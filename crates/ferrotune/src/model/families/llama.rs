//! Llama 2 and 3 (and what shares their `model_type`, such as SmolLM2): RMS norm, rotary attention with grouped heads,
//! SwiGLU.

use super::Architecture;
use crate::model::config::{Activation, ModelConfig};
use crate::{Error, Result};

/// Sizes as in `config.json`, no window.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    if c.hidden_act != Activation::Silu {
        return Err(Error::config(
            "hidden_act",
            format!("{:?} in a {} model; `silu` is implemented", c.hidden_act, c.model_type),
        ));
    }
    Ok(Architecture {
        vocab: c.vocab_size,
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        kv_heads: c.num_key_value_heads,
        head_dim: c.head_dim,
        ffn: c.intermediate_size,
        norm_eps: c.rms_norm_eps as f32,
        qkv_bias: c.attention_bias,
        o_bias: c.attention_bias,
        mlp_bias: c.mlp_bias,
        windows: vec![None; c.num_hidden_layers],
        rope_theta: c.rope_theta,
        rope_scaling: c.rope_scaling.clone(),
        tied: c.tie_word_embeddings,
    })
}
