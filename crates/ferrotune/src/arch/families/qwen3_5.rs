//! Qwen 3.5, 3.6 and 3.8: three layers of four with the gated delta rule, the fourth with attention whose output is gated; a
//! quarter of each head rotated, norms of `1 + w`.

use ferrotune_kernels::ops::rms_norm;

use super::{Family, taps};
use crate::Result;
use crate::arch::architecture::{Architecture, GatedDelta, Mixing, QkNorm, rope};
use crate::arch::config::{Defaults, LayerType, ModelConfig};

pub(super) const FAMILY: Family =
    Family { model_type: "qwen3_5_text", defaults: DEFAULTS, architecture: dense };

/// Those of all families with this network.
pub(super) const DEFAULTS: Defaults = Defaults {
    head_dim: Some(256),
    partial_rotary: true,
    layer_types: &[LayerType::Full, LayerType::Linear],
    ..Defaults::COMMON
};

fn dense(c: &ModelConfig) -> Result<Architecture> {
    architecture(c, false)
}

/// The network without experts. What a key head needs may stand together in the projections.
pub(super) fn architecture(c: &ModelConfig, by_key_head: bool) -> Result<Architecture> {
    c.with_keys(|keys| {
        let size = |key: &str, usual| Ok::<_, crate::Error>(keys.optional_size(key)?.unwrap_or(usual));
        let delta = GatedDelta {
            key_heads: size("linear_num_key_heads", 16)?,
            value_heads: size("linear_num_value_heads", 32)?,
            key_dim: size("linear_key_head_dim", 128)?,
            value_dim: size("linear_value_head_dim", 128)?,
            taps: taps(keys, "linear_conv_kernel_dim", 4)?,
            by_key_head,
        };
        if !delta.value_heads.is_multiple_of(delta.key_heads) {
            let problem =
                format!("{} is no multiple of linear_num_key_heads {}", delta.value_heads, delta.key_heads);
            return Err(keys.bad("linear_num_value_heads", problem));
        }
        let interval = size("full_attention_interval", 4)?;
        let attends = |i: usize| match &c.layer_types {
            Some(types) => types[i] == LayerType::Full,
            None => (i + 1).is_multiple_of(interval),
        };
        let mixer = |i| if attends(i) { Mixing::Attention } else { Mixing::GatedDelta(delta) };
        Ok(Architecture {
            mixers: (0..c.num_hidden_layers).map(mixer).collect(),
            norm: rms_norm::RMS_ONE_PLUS,
            qk_norm: Some(QkNorm::HEAD),
            attention_gate: true,
            mlp_bias: false,
            ropes: vec![rope(c, 10_000.0, 0.25)],
            ..Architecture::common(c)
        })
    })
}
