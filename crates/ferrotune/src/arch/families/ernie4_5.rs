//! ERNIE 4.5 (dense): the Llama network whose rotation turns neighbouring elements.

use ferrotune_kernels::ops::rope::Pairs;

use super::Family;
use crate::Result;
use crate::arch::architecture::{Architecture, Rope, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "ernie4_5",
    defaults: Defaults { head_dim: Some(128), norm_eps: 1e-5, ..Defaults::COMMON },
    architecture,
};

/// `use_bias` speaks of all linears.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let bias = c.with_keys(|keys| Ok(keys.flag("use_bias")?.unwrap_or(false)))?;
    Ok(Architecture {
        qkv_bias: bias,
        o_bias: bias,
        mlp_bias: bias,
        ropes: vec![Rope { pairs: Pairs::Neighbours, ..rope(c, 500_000.0, 1.0) }],
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}
