//! gpt-oss: attention sinks, biases everywhere, windows in every other layer, and experts whose gate and up are limited; in
//! files they alternate, transposed or in MXFP4.

use ferrotune_kernels::ops::activation::Activation;
use serde_json::json;

use super::{Family, only, rope_or, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, Stacked};
use crate::arch::config::{Defaults, ModelConfig, RopeScaling, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_oss",
    defaults: Defaults { head_dim: Some(64), norm_eps: 1e-5, window: Window::Or(128), ..Defaults::COMMON },
    architecture,
};

/// Without rotary parameters the family has YaRN. The weights of a token's experts are a softmax over those chosen, which is
/// one over all whose weights are made to sum to 1.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "output_router_logits", &json!(false))?;
    c.with_keys(|keys| {
        let count = keys.first_size(["num_local_experts", "num_experts"])?.unwrap_or(128);
        let per_token = keys.first_size(["num_experts_per_tok", "experts_per_token"])?.unwrap_or(4);
        let experts = Experts {
            router: "router",
            bias: true,
            stacked: Stacked::Columns,
            ..Experts::common(c, count, per_token)
        };
        experts.check(c)?;
        let yarn = RopeScaling::Yarn {
            factor: 32.0,
            original_max_position_embeddings: 4096,
            attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            truncate: false,
        };
        let bias = keys.flag("attention_bias")?.unwrap_or(true);
        let limit = keys.positive("swiglu_limit")?.unwrap_or(7.0) as f32;
        let alpha = keys.positive("swiglu_alpha")?.unwrap_or(1.702) as f32;
        Ok(Architecture {
            qkv_bias: bias,
            o_bias: bias,
            sinks: true,
            activation: Activation::ClampedSwish { alpha, limit },
            experts: Some(experts),
            windows: windows(c, |i| i.is_multiple_of(2)),
            ropes: vec![rope_or(c, 150_000.0, yarn)],
            ..Architecture::common(c)
        })
    })
}
