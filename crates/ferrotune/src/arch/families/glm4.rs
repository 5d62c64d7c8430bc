//! GLM-4-0414 (`glm4`): GLM-4 with norms around attention and MLP.

use super::{Family, glm};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms};
use crate::arch::config::ModelConfig;

pub(super) const FAMILY: Family = Family { model_type: "glm4", defaults: glm::DEFAULTS, architecture };

/// Llama's names for the norms before the halves, names of its own for those behind.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        norms: LayerNorms {
            after_attention: Some("post_self_attn_layernorm"),
            after_mlp: Some("post_mlp_layernorm"),
            ..LayerNorms::BEFORE
        },
        ..glm::architecture(c)?
    })
}
