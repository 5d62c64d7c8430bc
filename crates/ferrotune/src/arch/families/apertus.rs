//! Apertus: the Llama network with norms of the heads of q and k, and an MLP without a gate whose activation has trained
//! numbers.

use super::{Family, only, rope_or};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, MlpKind, QkNorm};
use crate::arch::config::{Defaults, ModelConfig, RopeScaling};

/// The one activation that is computed.
const XIELU: &str = "xielu";

pub(super) const FAMILY: Family = Family {
    model_type: "apertus",
    defaults: Defaults { norm_eps: 1e-5, own_activation: Some(XIELU), ..Defaults::COMMON },
    architecture,
};

/// Without rotary parameters the family has Llama 3.1's, with numbers of its own.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "hidden_act", &XIELU.into())?;
    let usual = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    Ok(Architecture {
        norms: LayerNorms {
            before_attention: Some("attention_layernorm"),
            before_mlp: Some("feedforward_layernorm"),
            ..LayerNorms::BEFORE
        },
        qk_norm: Some(QkNorm::HEAD),
        mlp: MlpKind::Plain(["mlp.up_proj", "mlp.down_proj"]),
        mlp_bias: false,
        xielu: true,
        ropes: vec![rope_or(c, 12_000_000.0, usual)],
        ..Architecture::common(c)
    })
}
