//! Mistral: the Llama network with a sliding window in every layer.

use super::{Family, windows};
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family { model_type: "mistral", defaults: Defaults::COMMON, architecture };

/// Llama, each query seeing `sliding_window` keys; no biases, whatever the configuration says.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        windows: windows(c, |_| true),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        ..Architecture::common(c)
    })
}
