//! Seed-OSS: the Llama network with biases on q, k and v.

use super::Family;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "seed_oss",
    defaults: Defaults { head_dim: Some(128), ..Defaults::COMMON },
    architecture,
};

/// Llama with a key of its own for the bias of o.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    c.with_keys(|keys| {
        Ok(Architecture {
            qkv_bias: keys.flag("attention_bias")?.unwrap_or(true),
            o_bias: keys.flag("attention_out_bias")?.unwrap_or(false),
            ..Architecture::common(c)
        })
    })
}
