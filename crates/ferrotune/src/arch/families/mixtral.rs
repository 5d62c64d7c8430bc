//! Mixtral: Mistral with experts in every layer.

use serde_json::json;

use super::{Family, mistral, only, window_everywhere};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family =
    Family { model_type: "mixtral", defaults: Defaults { norm_eps: 1e-5, ..Defaults::COMMON }, architecture };

/// Weights of a token's experts sum to 1. Noise on the router and losses that balance it are not implemented.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    let (count, per_token, noise) = c.with_keys(|keys| {
        let count = keys.optional_size("num_local_experts")?.unwrap_or(8);
        Ok((
            count,
            keys.optional_size("num_experts_per_tok")?.unwrap_or(2),
            keys.number("router_jitter_noise")?,
        ))
    })?;
    if noise.is_some_and(|n| n != 0.0) {
        only(c, "router_jitter_noise", &json!(0.0))?;
    }
    let experts = Experts {
        module: "block_sparse_moe",
        names: ["w1", "w3", "w2"],
        ..Experts::common(c, count, per_token)
    };
    experts.check(c)?;
    Ok(Architecture {
        experts: Some(experts),
        windows: window_everywhere(c),
        ropes: vec![rope(c, 1_000_000.0, 1.0)],
        ..mistral::architecture(c)?
    })
}
