//! OLMoE: the Llama network with norms over all heads of q and of k, and experts in every layer.

use ferrotune_kernels::ops::route::Score;
use serde_json::{Value, json};

use super::{Family, only};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, QkNorm, Stacked};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family =
    Family { model_type: "olmoe", defaults: Defaults { norm_eps: 1e-5, ..Defaults::COMMON }, architecture };

/// Bounds on q, k and v, and losses that balance the router, are not implemented.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    only(c, "clip_qkv", &Value::Null)?;
    let experts = c.with_keys(|keys| {
        Ok(Experts {
            count: keys.first_size(["num_experts", "num_local_experts"])?.unwrap_or(64),
            per_token: keys.optional_size("num_experts_per_tok")?.unwrap_or(8),
            ffn: c.intermediate_size,
            score: Score::Softmax,
            normalise: keys.flag("norm_topk_prob")?.unwrap_or(false),
            correction: None,
            shared: None,
            layers: vec![true; c.num_hidden_layers],
            module: "mlp",
            router: "gate",
            bias: false,
            stacked: Stacked::Rows,
            names: ["gate_proj", "up_proj", "down_proj"],
        })
    })?;
    experts.check(c)?;
    Ok(Architecture { qk_norm: Some(QkNorm::WHOLE), experts: Some(experts), ..Architecture::common(c) })
}
