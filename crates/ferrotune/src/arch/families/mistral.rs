//! Mistral: the Llama network with a sliding window in every layer.

use super::{Architecture, windows};
use crate::Result;
use crate::arch::config::ModelConfig;

/// As Llama, each query seeing `sliding_window` keys; no biases, whatever the configuration says.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        windows: windows(c, |_| true),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        ..Architecture::common(c)
    })
}
