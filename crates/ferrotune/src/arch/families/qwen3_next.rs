//! Qwen3-Next: the network of Qwen 3.5 with experts, and two projections that hold all of a key head together.

use super::{Family, qwen2_moe, qwen3_5, qwen3_moe};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts};
use crate::arch::config::ModelConfig;

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3_next", defaults: qwen3_5::DEFAULTS, architecture };

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let experts = qwen3_moe::experts(c, [512, 10, 512])?;
    let normalise = c.with_keys(|keys| Ok(keys.flag("norm_topk_prob")?.unwrap_or(true)))?;
    let shared = Some(qwen2_moe::shared_expert(c, 512)?);
    let experts = Experts { normalise, shared, ..experts };
    Ok(Architecture { experts: Some(experts), ..qwen3_5::architecture(c, true)? })
}
