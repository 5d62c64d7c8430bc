//! OLMoE: the Llama network with norms over all heads of q and of k, and experts in every layer.

use serde_json::{Value, json};

use super::{Family, only};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, QkNorm};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family =
    Family { model_type: "olmoe", defaults: Defaults { norm_eps: 1e-5, ..Defaults::COMMON }, architecture };

/// Bounds on q, k and v, and losses that balance the router, are not implemented.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    only(c, "clip_qkv", &Value::Null)?;
    let experts = c.with_keys(|keys| {
        let count = keys.first_size(["num_experts", "num_local_experts"])?.unwrap_or(64);
        let per_token = keys.optional_size("num_experts_per_tok")?.unwrap_or(8);
        let normalise = keys.flag("norm_topk_prob")?.unwrap_or(false);
        Ok(Experts { normalise, ..Experts::common(c, count, per_token) })
    })?;
    experts.check(c)?;
    Ok(Architecture { qk_norm: Some(QkNorm::WHOLE), experts: Some(experts), ..Architecture::common(c) })
}
