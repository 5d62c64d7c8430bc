//! StarCoder 2: layer norms, biases everywhere, an MLP of two matrices with GELU, a window in every layer.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::layer_norm;

use super::{Family, window_everywhere};
use crate::Result;
use crate::arch::architecture::{Architecture, MlpKind};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "starcoder2",
    defaults: Defaults {
        norm_eps_key: "norm_epsilon",
        norm_eps: 1e-5,
        activation: Activation::GeluTanh,
        ..Defaults::COMMON
    },
    architecture,
};

/// `use_bias` speaks of all linears; layer norms have theirs anyway.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let bias = c.with_keys(|keys| Ok(keys.flag("use_bias")?.unwrap_or(true)))?;
    Ok(Architecture {
        norm: layer_norm::LAYER,
        mlp: MlpKind::Plain(["mlp.c_fc", "mlp.c_proj"]),
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        windows: window_everywhere(c),
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}
