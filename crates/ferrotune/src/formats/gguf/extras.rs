//! What the configuration of one architecture has beyond that of all.

use serde_json::Value;

use super::metadata::Metadata;
use crate::Result;

/// Keys that one architecture adds to the configuration, or changes in it.
pub(super) type Extras = fn(&Metadata<'_>, &mut Value) -> Result<()>;

pub(super) fn none(_: &Metadata<'_>, _: &mut Value) -> Result<()> {
    Ok(())
}

/// Biases are stated by the tensors that are there.
pub(super) fn llama(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    raw["mlp_bias"] = meta.has("blk.0.ffn_gate.bias").into();
    Ok(())
}

pub(super) fn qwen3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    Ok(())
}

/// What Gemma 2 and 3 share. Files do not state the scale of the scores: it is the heads' width, but for the 27B
/// models of both generations (of `large` layers), where it is the hidden size by heads.
fn gemma(meta: &Metadata<'_>, raw: &mut Value, large: u64) -> Result<()> {
    let heads = meta.need("attention.head_count")?;
    raw["query_pre_attn_scalar"] = match meta.need("block_count")? {
        layers if layers == large => (meta.need("embedding_length")? / heads.max(1)).into(),
        _ => raw["head_dim"].clone(),
    };
    raw["hidden_activation"] = "gelu_pytorch_tanh".into();
    raw["hidden_act"] = "gelu_pytorch_tanh".into();
    Ok(())
}

/// Caps and window of the published models where an early file leaves them out.
pub(super) fn gemma2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    gemma(meta, raw, 46)?;
    raw["attn_logit_softcapping"] = meta.float("attn_logit_softcapping")?.unwrap_or(50.0).into();
    raw["final_logit_softcapping"] = meta.float("final_logit_softcapping")?.unwrap_or(30.0).into();
    raw["sliding_window"] = meta.window()?.unwrap_or(4096).into();
    Ok(())
}

/// Five layers with a window to one without, unless the file states another pattern; no window in any if it has none.
pub(super) fn gemma3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    gemma(meta, raw, 62)?;
    let key = meta.key("attention.sliding_window_pattern");
    // More layers than anyone has are refused later; a list of them is not made.
    let layers = 1..=meta.need("block_count")?.min(1 << 16);
    let slides: Vec<bool> = match (meta.window()?, meta.file.flags(&key)) {
        (None, _) => layers.map(|_| false).collect(),
        (_, Ok(Some(flags))) => flags,
        _ => {
            let pattern = meta.file.unsigned(&key)?.unwrap_or(6);
            layers.map(|i| pattern == 0 || !i.is_multiple_of(pattern)).collect()
        }
    };
    let name = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    raw["layer_types"] = slides.into_iter().map(name).collect();
    raw["rope_local_base_freq"] = meta.float("rope.freq_base_swa")?.unwrap_or(10_000.0).into();
    raw["final_logit_softcapping"] = meta.float("final_logit_softcapping")?.into();
    Ok(())
}

pub(super) fn phi3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    if let Some(original) = meta.unsigned("rope.scaling.original_context_length")? {
        raw["original_max_position_embeddings"] = original.into();
    }
    Ok(())
}

/// Every fourth layer has no rotation, which no key says.
pub(super) fn smollm3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    llama(meta, raw)?;
    raw["no_rope_layer_interval"] = 4.into();
    raw["sliding_window"] = Value::Null;
    Ok(())
}

/// Olmo 3 is written as this architecture, with windows.
pub(super) fn olmo2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    if let Some(window) = meta.window()? {
        let problem = format!("a window of {window} (Olmo 3) is not supported");
        return Err(meta.bad("attention.sliding_window", problem));
    }
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    Ok(())
}

pub(super) fn granite(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    llama(meta, raw)?;
    for (key, own) in [
        ("embedding_multiplier", "embedding_scale"),
        ("attention_multiplier", "attention.scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
    ] {
        raw[key] = meta.float(own)?.ok_or_else(|| meta.missing(own))?.into();
    }
    Ok(())
}

/// Some converters write `use_parallel_residual` whatever the model has; a second norm is what decides it.
pub(super) fn stablelm(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["use_parallel_residual"] = (!meta.has("blk.0.ffn_norm.weight")).into();
    raw["qk_layernorm"] = meta.has("blk.0.attn_q_norm.weight").into();
    raw["use_qkv_bias"] = meta.has("blk.0.attn_q.bias").into();
    Ok(())
}

/// Converters leave the window out; all published models have one of 4096.
pub(super) fn starcoder2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["hidden_act"] = "gelu_pytorch_tanh".into();
    raw["use_bias"] = meta.has("blk.0.attn_q.bias").into();
    if meta.unsigned("attention.sliding_window")?.is_none() {
        raw["sliding_window"] = 4096.into();
    }
    Ok(())
}
