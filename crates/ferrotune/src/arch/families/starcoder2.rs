//! StarCoder 2: layer norms, biases everywhere, an MLP of two matrices with GELU, a window in every layer.

use super::{Architecture, MlpKind, NormKind, window_everywhere};
use crate::Result;
use crate::arch::config::ModelConfig;

/// `use_bias` speaks of all linears; layer norms have theirs anyway.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let bias = c.with_keys(|keys| Ok(keys.flag("use_bias")?.unwrap_or(true)))?;
    Ok(Architecture {
        norm: NormKind::Layer,
        mlp: MlpKind::Plain,
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        windows: window_everywhere(c),
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}
