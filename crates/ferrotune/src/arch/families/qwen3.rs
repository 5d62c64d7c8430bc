//! Qwen 3: the Llama network with an RMS norm of each head of q and k.

use super::qwen2::upper_windows;
use super::{Architecture, QkNorm};
use crate::Result;
use crate::arch::config::ModelConfig;

/// As Llama with `q_norm` and `k_norm`.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        qk_norm: QkNorm::Head,
        mlp_bias: false,
        windows: upper_windows(c)?,
        ..Architecture::common(c)
    })
}
