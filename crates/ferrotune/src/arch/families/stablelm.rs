//! StableLM: layer norms, a quarter of each head rotated, optionally norms of each head and attention beside the MLP.

use ferrotune_kernels::ops::layer_norm;

use super::Family;
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, QkNorm, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "stablelm",
    defaults: Defaults {
        norm_eps_key: "layer_norm_eps",
        norm_eps: 1e-5,
        partial_rotary: true,
        ..Defaults::COMMON
    },
    architecture,
};

/// `use_parallel_residual` and `qk_layernorm` are those of StableLM 2 12B.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let flag = |key: &str| c.with_keys(|keys| Ok(keys.flag(key)?.unwrap_or(false)));
    Ok(Architecture {
        norm: layer_norm::LAYER,
        norms: if flag("use_parallel_residual")? { LayerNorms::PARALLEL } else { LayerNorms::BEFORE },
        qk_norm: flag("qk_layernorm")?.then_some(QkNorm::OWN_LAYER),
        qkv_bias: flag("use_qkv_bias")?,
        o_bias: false,
        mlp_bias: false,
        ropes: vec![rope(c, 10_000.0, 0.25)],
        ..Architecture::common(c)
    })
}
