//! InternLM 3: the Llama network with names of its own for two keys.

use super::Family;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "internlm3",
    defaults: Defaults { head_dim: Some(128), norm_eps: 1e-5, ..Defaults::COMMON },
    architecture,
};

/// `qkv_bias` is Llama's `attention_bias`, and `bias` its `mlp_bias`, which speaks of o too.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    c.with_keys(|keys| {
        let qkv_bias = keys.flag("qkv_bias")?.unwrap_or(c.attention_bias);
        let bias = keys.flag("bias")?.unwrap_or(c.mlp_bias);
        Ok(Architecture { qkv_bias, o_bias: bias, mlp_bias: bias, ..Architecture::common(c) })
    })
}
