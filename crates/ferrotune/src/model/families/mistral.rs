//! Mistral: the Llama network with a sliding window in every layer.

use super::{Architecture, llama};
use crate::Result;
use crate::model::config::ModelConfig;

/// As Llama, each query seeing `sliding_window` keys.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture { windows: vec![c.sliding_window; c.num_hidden_layers], ..llama::architecture(c)? })
}
