//! Gemma 4 (text): layers without a window have wider heads, fewer of k and v, whose values may be the keys, and a rotation
//! of a part of the frequencies; norms of plain `w`, one of v without a weight, and a constant that multiplies a layer's output.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::softmax_xent::Logits;
use serde_json::{Value, json};

use super::{Family, gemma2, only, only_activation, windows};
use crate::Result;
use crate::arch::architecture::{
    Architecture, LayerAttention, LayerNorms, QkNorm, Rope, Values, rope_of_kind,
};
use crate::arch::config::{Defaults, Keys, LayerType, ModelConfig, RopeScaling, RopeStyle, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "gemma4_text",
    defaults: Defaults {
        rope: RopeStyle::ByLayerType,
        partial_rotary: true,
        window: Window::Or(512),
        ..gemma2::DEFAULTS
    },
    architecture,
};

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only_activation(c, Activation::GeluTanh)?;
    gemma2::needs_window(c)?;
    // With `vision` tokens of text attend as usual.
    if c.network().get("use_bidirectional_attention") != Some(&json!("vision")) {
        only(c, "use_bidirectional_attention", &json!(false))?;
    }
    only(c, "enable_moe_block", &json!(false))?;
    c.with_keys(|keys| match keys.optional_count("hidden_size_per_layer_input")? {
        Some(0) => Ok(()),
        _ => Err(keys.bad("hidden_size_per_layer_input", "embeddings for each layer are not supported")),
    })?;
    let windows = windows_of(c);
    let cap = c.with_keys(|keys| keys.positive("final_logit_softcapping"))?;
    let attentions = c.with_keys(|keys| {
        let keyed = keys.flag("attention_k_eq_v")?.unwrap_or(false);
        let sizes = Sizes::read(keys, keyed)?;
        let one = |(i, window): (usize, &Option<usize>)| {
            let full = window.is_none();
            let values = if keyed && full { Values::Keys } else { Values::Projected };
            let (kv_heads, head_dim) = sizes.of_layer(keys, i, full, c)?;
            Ok(LayerAttention { kv_heads, head_dim, values, ffn: c.intermediate_size })
        };
        let own = windows.iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
        shared(keys, own, &windows, c.intermediate_size)
    })?;
    let (ropes, rope_of_layer) = ropes(c, &windows, &attentions)?;
    Ok(Architecture {
        norms: LayerNorms::AROUND,
        attentions,
        qk_norm: Some(QkNorm::HEAD),
        v_norm: true,
        mlp_bias: false,
        score_scale: 1.0,
        logits: Logits { scale: 1.0, cap: cap.map(|v| v as f32) },
        embed_scale: (c.hidden_size as f32).sqrt(),
        layer_scalar: true,
        rope_of_layer,
        ropes,
        windows,
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}

/// Five layers with a window to one without; the last one never has one.
fn windows_of(c: &ModelConfig) -> Vec<Option<usize>> {
    let mut windows = windows(c, |i| !(i + 1).is_multiple_of(6));
    if let Some(last) = windows.last_mut() {
        *last = None;
    }
    windows
}

/// Sizes of the layers that differ, as they are stated.
enum Sizes<'a> {
    /// Those of each layer, by its number or the name of its kind.
    ByLayer(&'a serde_json::Map<String, Value>),
    /// Those of all layers without a window.
    Full { kv_heads: Option<usize>, head_dim: usize },
}

impl<'a> Sizes<'a> {
    /// `per_layer_config`, or the keys of released files.
    fn read(keys: &Keys<'a>, keyed: bool) -> Result<Self> {
        const KEY: &str = "per_layer_config";
        match keys.get(KEY) {
            Some(Value::Object(layers)) => Ok(Sizes::ByLayer(layers)),
            Some(_) => Err(keys.bad(KEY, "not an object")),
            None => Ok(Sizes::Full {
                // Read where the values are the keys only, as its code has it.
                kv_heads: keys.optional_size("num_global_key_value_heads")?.filter(|_| keyed),
                head_dim: keys.optional_size("global_head_dim")?.unwrap_or(512),
            }),
        }
    }

    /// Heads of k and v and their width.
    fn of_layer(&self, keys: &Keys<'_>, i: usize, full: bool, c: &ModelConfig) -> Result<(usize, usize)> {
        let (kv_heads, head_dim) = match self {
            Sizes::Full { kv_heads, head_dim } if full => (*kv_heads, Some(*head_dim)),
            Sizes::Full { .. } => (None, None),
            Sizes::ByLayer(layers) => {
                let kind = if full { LayerType::Full } else { LayerType::Sliding };
                match layers.get(&i.to_string()).or_else(|| layers.get(kind.name())) {
                    None => (None, None),
                    Some(Value::Object(object)) => {
                        let own = Keys { path: keys.path, object };
                        let known = ["head_dim", "num_key_value_heads"];
                        if let Some(other) = object.keys().find(|key| !known.contains(&key.as_str())) {
                            let problem =
                                format!("`{other}` of a layer is not supported ({})", known.join(", "));
                            return Err(keys.bad("per_layer_config", problem));
                        }
                        (own.optional_size(known[1])?, own.optional_size(known[0])?)
                    }
                    Some(_) => {
                        return Err(keys.bad("per_layer_config", format!("layer {i} is not an object")));
                    }
                }
            }
        };
        let (kv_heads, head_dim) =
            (kv_heads.unwrap_or(c.num_key_value_heads), head_dim.unwrap_or(c.head_dim));
        if !c.num_attention_heads.is_multiple_of(kv_heads) {
            let heads = c.num_attention_heads;
            let problem = format!("{kv_heads} in layer {i} does not divide num_attention_heads {heads}");
            return Err(keys.bad("num_key_value_heads", problem));
        }
        if head_dim % 2 == 1 {
            let problem = format!("{head_dim} in layer {i} is odd, rotary embeddings need pairs");
            return Err(keys.bad("head_dim", problem));
        }
        Ok((kv_heads, head_dim))
    }
}

/// The same with the last layers using the keys and values of the last layer of their kind before them. Their MLPs may be
/// twice as wide.
fn shared(
    keys: &Keys<'_>,
    mut layers: Vec<LayerAttention>,
    windows: &[Option<usize>],
    ffn: usize,
) -> Result<Vec<LayerAttention>> {
    const KEY: &str = "num_kv_shared_layers";
    let count = keys.optional_count(KEY)?.unwrap_or(0);
    let wide = keys.flag("use_double_wide_mlp")?.unwrap_or(false);
    let Some(first) = layers.len().checked_sub(count) else {
        return Err(keys.bad(KEY, format!("{count} of {} layers", layers.len())));
    };
    for i in first..layers.len() {
        let same = |j: &usize| windows[*j].is_some() == windows[i].is_some();
        let Some(from) = (0..first).rev().find(same) else {
            return Err(
                keys.bad(KEY, format!("no layer before the last {count} is of the kind of layer {i}"))
            );
        };
        let made = layers[from];
        if (made.kv_heads, made.head_dim) != (layers[i].kv_heads, layers[i].head_dim) {
            return Err(keys.bad(KEY, format!("layers {from} and {i} have heads of other sizes")));
        }
        layers[i].values = Values::Layer(from);
        layers[i].ffn = if wide { 2 * ffn } else { ffn };
    }
    Ok(layers)
}

/// The rotations and which of them each layer has: one for each kind and width.
fn ropes(
    c: &ModelConfig,
    windows: &[Option<usize>],
    attentions: &[LayerAttention],
) -> Result<(Vec<Rope>, Vec<Option<usize>>)> {
    let mut ropes: Vec<Rope> = Vec::new();
    let mut of_layer = Vec::new();
    for (window, attention) in windows.iter().zip(attentions) {
        let full = window.is_none();
        let kind = if full { LayerType::Full } else { LayerType::Sliding };
        let stated = c.rope_by_layer.get(kind.name());
        let mut rope = rope_of_kind(c, stated, if full { 1e6 } else { 1e4 });
        rope.dims = attention.head_dim;
        if full && c.rope_by_layer.is_empty() {
            rope.scaling = RopeScaling::Proportional { factor: 1.0, share: 0.25 };
        }
        if !matches!(rope.scaling, RopeScaling::None | RopeScaling::Proportional { .. }) {
            return c.with_keys(|keys| {
                let problem =
                    format!("its type in {} layers is not supported (default, proportional)", kind.name());
                Err(keys.bad("rope_parameters", problem))
            });
        }
        let found = ropes.iter().position(|r| *r == rope);
        of_layer.push(Some(found.unwrap_or(ropes.len())));
        if found.is_none() {
            ropes.push(rope);
        }
    }
    Ok((ropes, of_layer))
}
