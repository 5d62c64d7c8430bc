//! MiniMax-M2: norms over all heads of q and of k, a part of each head rotated, and experts in every layer whose scores are
//! sigmoids.

use ferrotune_kernels::ops::route::Score;
use serde_json::json;

use super::{Family, only};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, QkNorm, Stacked, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "minimax_m2",
    defaults: Defaults { head_dim: Some(128), partial_rotary: true, ..Defaults::COMMON },
    architecture,
};

/// `rotary_dim` is how released checkpoints state the rotated part of a head. Losses that balance the router are not
/// implemented.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    let (experts, partial) = c.with_keys(|keys| {
        let partial = keys.optional_size("rotary_dim")?.map_or(1.0, |dims| dims as f64 / c.head_dim as f64);
        let experts = Experts {
            count: keys.first_size(["num_local_experts", "num_experts"])?.unwrap_or(256),
            per_token: keys.optional_size("num_experts_per_tok")?.unwrap_or(8),
            ffn: c.intermediate_size,
            score: Score::Sigmoid,
            normalise: true,
            correction: Some("e_score_correction_bias"),
            shared: None,
            layers: vec![true; c.num_hidden_layers],
            module: "block_sparse_moe",
            router: "gate",
            bias: false,
            stacked: Stacked::Rows,
            names: ["w1", "w3", "w2"],
        };
        Ok((experts, partial))
    })?;
    experts.check(c)?;
    Ok(Architecture {
        qk_norm: Some(QkNorm::WHOLE),
        qkv_bias: false,
        o_bias: false,
        experts: Some(experts),
        ropes: vec![rope(c, 5_000_000.0, partial)],
        ..Architecture::common(c)
    })
}
