//! Qwen 3 with experts in all or some layers.

use serde_json::json;

use super::{Family, only, qwen3, window_everywhere};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    defaults: Defaults { window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

/// Every `decoder_sparse_step`-th layer has experts, but those of `mlp_only_layers`. Losses that balance the router are
/// not implemented.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    let experts = c.with_keys(|keys| {
        let step = keys.optional_size("decoder_sparse_step")?.unwrap_or(1);
        let dense = keys.indices("mlp_only_layers")?.unwrap_or_default();
        let sparse = |i: usize| (i + 1).is_multiple_of(step) && !dense.contains(&i);
        Ok(Experts {
            count: match keys.optional_size("num_experts")? {
                Some(count) => count,
                // As transformers 5 writes it.
                None => keys.optional_size("num_local_experts")?.unwrap_or(128),
            },
            per_token: keys.optional_size("num_experts_per_tok")?.unwrap_or(8),
            ffn: keys.optional_size("moe_intermediate_size")?.unwrap_or(768),
            normalise: keys.flag("norm_topk_prob")?.unwrap_or(false),
            layers: (0..c.num_hidden_layers).map(sparse).collect(),
            module: "mlp",
            names: ["gate_proj", "up_proj", "down_proj"],
        })
    })?;
    experts.check(c)?;
    Ok(Architecture { experts: Some(experts), windows: window_everywhere(c), ..qwen3::architecture(c)? })
}
