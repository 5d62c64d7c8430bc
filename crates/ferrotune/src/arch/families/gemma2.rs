//! Gemma 2: four norms a layer with weights `1 + w`, windows in every other layer, soft caps on scores and logits,
//! GEGLU, embeddings times the root of the hidden size.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::rms_norm;
use ferrotune_kernels::ops::softmax_xent::Logits;
use serde_json::json;

use super::{Family, only, only_activation, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms};
use crate::arch::config::{Defaults, ModelConfig, Window};

/// What Gemma 2 and 3 share.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    // `hidden_act` is left for old readers.
    activation_key: "hidden_activation",
    activation: Activation::GeluTanh,
    window: Window::Or(4096),
    ..Defaults::COMMON
};

pub(super) const FAMILY: Family = Family { model_type: "gemma2", defaults: DEFAULTS, architecture };

/// What Gemma 2 and 3 share. Caps are on scores and on logits: those of a configuration that does not name them, or none.
pub(super) fn shared(c: &ModelConfig, caps: [Option<f32>; 2]) -> Result<Architecture> {
    only_activation(c, Activation::GeluTanh)?;
    only(c, "use_bidirectional_attention", &json!(false))?;
    let (scalar, score_cap, logit_cap) = c.with_keys(|keys| {
        let cap = |key: &str, usual: Option<f32>| match keys.has(key) {
            true => keys.positive(key).map(|v| v.map(|v| v as f32)),
            false => Ok(usual),
        };
        let scalar = keys.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
        let (scores, logits) = ("attn_logit_softcapping", "final_logit_softcapping");
        Ok((scalar, cap(scores, caps[0])?, cap(logits, caps[1])?))
    })?;
    Ok(Architecture {
        norm: rms_norm::RMS_ONE_PLUS,
        norms: LayerNorms::AROUND,
        mlp_bias: false,
        score_scale: scalar.powf(-0.5) as f32,
        score_cap,
        logits: Logits { scale: 1.0, cap: logit_cap },
        embed_scale: (c.hidden_size as f32).sqrt(),
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}

/// A window in the first, third, ... layer.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    needs_window(c)?;
    Ok(Architecture { windows: windows(c, |i| i % 2 == 0), ..shared(c, [Some(50.0), Some(30.0)])? })
}

/// Refuses a configuration that takes the window away and does not say that no layer has one.
pub(super) fn needs_window(c: &ModelConfig) -> Result<()> {
    match (c.sliding_window, &c.layer_types) {
        (None, None) => c.with_keys(|keys| {
            Err(keys.bad("sliding_window", "null, and no `layer_types` say that no layer has one"))
        }),
        _ => Ok(()),
    }
}
