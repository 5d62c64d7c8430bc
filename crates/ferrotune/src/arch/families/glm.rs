//! GLM-4 (`glm`): gate and up in one matrix, biases on q, k and v, half of each head rotated in neighbouring elements.

use ferrotune_kernels::ops::rope::Pairs;

use super::Family;
use crate::Result;
use crate::arch::architecture::{Architecture, MlpKind, Rope, rope};
use crate::arch::config::{Defaults, ModelConfig};

/// What GLM-4 and GLM-4-0414 share.
pub(super) const DEFAULTS: Defaults =
    Defaults { head_dim: Some(128), norm_eps: 1.5625e-7, partial_rotary: true, ..Defaults::COMMON };

pub(super) const FAMILY: Family = Family { model_type: "glm", defaults: DEFAULTS, architecture };

/// Biases are there unless the configuration says otherwise.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        qkv_bias: c.with_keys(|keys| Ok(keys.flag("attention_bias")?.unwrap_or(true)))?,
        o_bias: false,
        mlp_bias: false,
        mlp: MlpKind::FUSED,
        ropes: vec![Rope { pairs: Pairs::Neighbours, ..rope(c, 10_000.0, 0.5) }],
        ..Architecture::common(c)
    })
}
