//! Qwen 3.5 and later with experts in every layer, and a shared one with a gate.

use super::{Family, qwen2_moe, qwen3_5, qwen3_moe};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_5_moe_text",
    defaults: Defaults { ffn: Some(512), ..qwen3_5::DEFAULTS },
    architecture,
};

/// Its code has no `norm_topk_prob`: the weights of a token's experts always sum to 1.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let experts = qwen3_moe::experts(c, [256, 8, 512])?;
    let shared = Some(qwen2_moe::shared_expert(c, 512)?);
    let experts = Experts { normalise: true, shared, layers: vec![true; c.num_hidden_layers], ..experts };
    Ok(Architecture { experts: Some(experts), ..qwen3_5::architecture(c, false)? })
}
