//! LFM2 and LFM2.5: short convolutions between gates in most layers, attention with norms of heads in the others.

use super::{Family, taps};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, Mixing, MlpKind, QkNorm, ShortConv, rope};
use crate::arch::config::{Defaults, Keys, LayerType, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "lfm2",
    defaults: Defaults {
        norm_eps_key: "norm_eps",
        norm_eps: 1e-5,
        ffn_key: "block_ff_dim",
        layer_types: &[LayerType::Full, LayerType::Conv],
        ..Defaults::COMMON
    },
    architecture,
};

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    c.with_keys(|keys| {
        let taps = taps(keys, "conv_L_cache", 3)?;
        let conv = Mixing::ShortConv(ShortConv { taps, bias: keys.flag("conv_bias")?.unwrap_or(false) });
        let attention = keys.indices("full_attn_idxs")?;
        let attends = |i: usize| match (&c.layer_types, &attention) {
            (Some(types), _) => types[i] == LayerType::Full,
            (None, Some(layers)) => layers.contains(&i),
            (None, None) => true,
        };
        let mixer = |i| if attends(i) { Mixing::Attention } else { conv };
        Ok(Architecture {
            ffn: ffn(keys, c.intermediate_size)?,
            mixers: (0..c.num_hidden_layers).map(mixer).collect(),
            norms: LayerNorms {
                before_attention: Some("operator_norm"),
                before_mlp: Some("ffn_norm"),
                ..LayerNorms::BEFORE
            },
            final_norm: "embedding_norm",
            qk_norm: Some(QkNorm { names: ["q_layernorm", "k_layernorm"], ..QkNorm::HEAD }),
            qkv_bias: false,
            o_bias: false,
            o_proj: "out_proj",
            mlp: MlpKind::Gated(["feed_forward.w1", "feed_forward.w3", "feed_forward.w2"]),
            mlp_bias: false,
            ropes: vec![rope(c, 1_000_000.0, 1.0)],
            tied: keys.flag("tie_embedding")?.or(c.tie_word_embeddings).unwrap_or(true),
            ..Architecture::common(c)
        })
    })
}

/// The stated width is that of an MLP without a gate; with one, two thirds of it hold as many values.
fn ffn(keys: &Keys<'_>, stated: usize) -> Result<usize> {
    if keys.flag("block_auto_adjust_ff_dim")? == Some(false) {
        return Ok(stated);
    }
    let multiple = keys.optional_size("block_multiple_of")?.unwrap_or(256);
    let factor = keys.positive("block_ffn_dim_multiplier")?.unwrap_or(1.0);
    let width = (factor * (2 * stated / 3) as f64) as usize;
    match width.div_ceil(multiple) * multiple {
        width @ 1..=0x8000_0000 => Ok(width),
        width => Err(keys.bad("block_ffn_dim_multiplier", format!("gives a width of {width}"))),
    }
}
