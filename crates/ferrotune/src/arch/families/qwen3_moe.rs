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

/// The experts of Qwen's families, with defaults for their number, how many a token has, and their width: every
/// `decoder_sparse_step`-th layer has some, but those of `mlp_only_layers`. Losses that balance the router are not
/// implemented.
pub(super) fn experts(c: &ModelConfig, [count, per_token, ffn]: [usize; 3]) -> Result<Experts> {
    only(c, "output_router_logits", &json!(false))?;
    let experts = c.with_keys(|keys| {
        let step = keys.optional_size("decoder_sparse_step")?.unwrap_or(1);
        let dense = keys.indices("mlp_only_layers")?.unwrap_or_default();
        let sparse = |i: usize| (i + 1).is_multiple_of(step) && !dense.contains(&i);
        // The second is what transformers 5 writes.
        let count = keys.first_size(["num_experts", "num_local_experts"])?.unwrap_or(count);
        let per_token = keys.optional_size("num_experts_per_tok")?.unwrap_or(per_token);
        Ok(Experts {
            ffn: keys.optional_size("moe_intermediate_size")?.unwrap_or(ffn),
            normalise: keys.flag("norm_topk_prob")?.unwrap_or(false),
            layers: (0..c.num_hidden_layers).map(sparse).collect(),
            ..Experts::common(c, count, per_token)
        })
    })?;
    experts.check(c)?;
    Ok(experts)
}

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let experts = experts(c, [128, 8, 768])?;
    Ok(Architecture { experts: Some(experts), windows: window_everywhere(c), ..qwen3::architecture(c)? })
}
