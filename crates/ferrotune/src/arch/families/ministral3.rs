//! Ministral 3: Mistral with YaRN, and queries that grow with their position.

use serde_json::Value;

use super::{Family, mistral, rotary_parameters, window_everywhere};
use crate::Result;
use crate::arch::architecture::{Architecture, QueryScale, Rope, rope};
use crate::arch::config::{Defaults, ModelConfig, RopeScaling};

pub(super) const FAMILY: Family = Family {
    model_type: "ministral3",
    defaults: Defaults { head_dim: Some(128), norm_eps: 1e-5, ..Defaults::COMMON },
    architecture,
};

/// YaRN of a configuration that states no rotary parameters.
const USUAL: RopeScaling = RopeScaling::Yarn {
    factor: 16.0,
    original_max_position_embeddings: 16_384,
    attention_factor: None,
    beta_fast: 32.0,
    beta_slow: 1.0,
    mscale: Some(1.0),
    mscale_all_dim: Some(1.0),
    truncate: true,
};

/// `llama_4_scaling_beta` stands among the rotary parameters.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let stated = rotary_parameters(c);
    let number = |key: &str| stated.and_then(|s| s.get(key)).and_then(Value::as_f64);
    let mut rope = rope(c, 1_000_000.0, 1.0);
    rope.query_scale = match stated {
        None => Some(QueryScale { beta: 0.1, context: 16_384 }),
        Some(_) => number("llama_4_scaling_beta")
            .zip(number("original_max_position_embeddings"))
            .map(|(beta, context)| QueryScale { beta, context: context as usize }),
    };
    if stated.is_none() {
        rope = Rope { scaling: USUAL, ..rope };
    }
    Ok(Architecture { ropes: vec![rope], windows: window_everywhere(c), ..mistral::architecture(c)? })
}
