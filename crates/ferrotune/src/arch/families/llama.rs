//! Llama 2 and 3 (and what shares their `model_type`, such as SmolLM2): RMS norm, rotary attention with grouped heads,
//! SwiGLU.

use super::Family;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family { model_type: "llama", defaults: Defaults::COMMON, architecture };

/// Sizes as in `config.json`, no window.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture::common(c))
}
