//! MiniMax-M2: norms over all heads of q and of k, a part of each head rotated, and experts in every layer whose scores are
//! sigmoids.

use ferrotune_kernels::ops::route::Score;
use serde_json::json;

use super::{Family, only};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, QkNorm, rope};
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
        let count = keys.first_size(["num_local_experts", "num_experts"])?.unwrap_or(256);
        let per_token = keys.optional_size("num_experts_per_tok")?.unwrap_or(8);
        let experts = Experts {
            score: Score::Sigmoid,
            correction: Some("e_score_correction_bias"),
            module: "block_sparse_moe",
            names: ["w1", "w3", "w2"],
            ..Experts::common(c, count, per_token)
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
