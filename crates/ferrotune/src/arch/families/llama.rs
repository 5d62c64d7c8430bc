//! Llama 2 and 3 (and what shares their `model_type`, such as SmolLM2): RMS norm, rotary attention with grouped heads,
//! SwiGLU.

use super::Architecture;
use crate::Result;
use crate::arch::config::ModelConfig;

/// Sizes as in `config.json`, no window.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture::common(c))
}
