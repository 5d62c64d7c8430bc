//! Phi 3 and 4-mini: the Llama network with q, k, v in one matrix and gate, up in another, and long rope.

use super::{Family, window_everywhere};
use crate::Result;
use crate::arch::architecture::{Architecture, MlpKind};
use crate::arch::config::{Defaults, ModelConfig, RopeStyle};

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    defaults: Defaults {
        norm_eps: 1e-5,
        partial_rotary: true,
        rope: RopeStyle::LongRope,
        ..Defaults::COMMON
    },
    architecture,
};

/// Llama with fused projections; a part of each head may be left unrotated.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        fused_qkv: true,
        mlp: MlpKind::FUSED,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        windows: window_everywhere(c),
        ..Architecture::common(c)
    })
}
