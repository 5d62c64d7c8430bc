//! Qwen 2 and 2.5: the Llama network with biases on q, k and v, and windows in the upper layers if asked for.

use super::{Family, windows};
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    defaults: Defaults { window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

/// Llama with biases, which are a part of the family, not of the configuration.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        qkv_bias: true,
        o_bias: false,
        mlp_bias: false,
        windows: upper_windows(c)?,
        ..Architecture::common(c)
    })
}

/// A window from layer `max_window_layers` on, if `use_sliding_window` says so.
pub(super) fn upper_windows(c: &ModelConfig) -> Result<Vec<Option<usize>>> {
    if c.use_sliding_window != Some(true) {
        return Ok(vec![None; c.num_hidden_layers]);
    }
    let first = c.with_keys(|keys| keys.optional_count("max_window_layers"))?.unwrap_or(28);
    Ok(windows(c, |i| i >= first))
}
