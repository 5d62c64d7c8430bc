//! Qwen 3: the Llama network with an RMS norm of each head of q and k.

use super::Family;
use super::qwen2::upper_windows;
use crate::Result;
use crate::arch::architecture::{Architecture, QkNorm};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    defaults: Defaults { head_dim: Some(128), window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

/// Llama with `q_norm` and `k_norm`.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        qk_norm: Some(QkNorm::HEAD),
        mlp_bias: false,
        windows: upper_windows(c)?,
        ..Architecture::common(c)
    })
}
