//! Phi 3 and 4-mini: the Llama network with q, k, v in one matrix and gate, up in another, and long rope.

use super::{Architecture, window_everywhere};
use crate::Result;
use crate::arch::config::ModelConfig;

/// As Llama, fused; a part of each head may be left unrotated.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        fused: true,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        windows: window_everywhere(c),
        ..Architecture::common(c)
    })
}
