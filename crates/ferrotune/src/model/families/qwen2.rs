//! Qwen 2 and 2.5: the Llama network with biases on q, k and v.

use super::{Architecture, llama};
use crate::Result;
use crate::model::config::ModelConfig;

/// As Llama; the biases are a part of the family, not of the configuration.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture { qkv_bias: true, o_bias: false, mlp_bias: false, ..llama::architecture(c)? })
}
