//! What the configuration of one architecture has beyond that of all.

use serde_json::{Value, json};

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

/// Which layers have a window: as the file states, or all but every `usual`-th; none of them if the file states no window.
fn layer_types(meta: &Metadata<'_>, usual: u64) -> Result<Vec<&'static str>> {
    let key = meta.key("attention.sliding_window_pattern");
    // More layers than anyone has are refused later; a list of them is not made.
    let layers = 1..=meta.need("block_count")?.min(1 << 16);
    let slides: Vec<bool> = match (meta.window()?, meta.file.flags(&key)) {
        (None, _) => layers.map(|_| false).collect(),
        (_, Ok(Some(flags))) => flags,
        _ => {
            let pattern = meta.file.unsigned(&key)?.unwrap_or(usual);
            layers.map(|i| pattern == 0 || !i.is_multiple_of(pattern)).collect()
        }
    };
    let name = |slides: bool| if slides { "sliding_attention" } else { "full_attention" };
    Ok(slides.into_iter().map(name).collect())
}

/// Five layers with a window to one without, unless the file states another pattern.
pub(super) fn gemma3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    gemma(meta, raw, 62)?;
    raw["layer_types"] = layer_types(meta, 6)?.into();
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

/// OLMo 3 is written as this architecture, with windows in three layers of four.
pub(super) fn olmo2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    if meta.window()?.is_some() {
        raw["model_type"] = "olmo3".into();
        raw["architectures"] = json!(["Olmo3ForCausalLM"]);
        raw["layer_types"] = layer_types(meta, 4)?.into();
    }
    Ok(())
}

/// No file says that YaRN leaves the ends of its ramp as they are, as the family's configuration does.
pub(super) fn gpt_oss(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    raw["layer_types"] = layer_types(meta, 2)?.into();
    if let Some(width) = meta.unsigned("expert_feed_forward_length")? {
        raw["intermediate_size"] = width.into();
    }
    if raw["rope_scaling"].is_object() {
        raw["rope_scaling"]["truncate"] = false.into();
    }
    Ok(())
}

pub(super) fn seed_oss(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["attention_bias"] = meta.has("blk.0.attn_q.bias").into();
    raw["attention_out_bias"] = meta.has("blk.0.attn_output.bias").into();
    raw["mlp_bias"] = false.into();
    Ok(())
}

pub(super) fn exaone4(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["layer_types"] = layer_types(meta, 4)?.into();
    Ok(())
}

pub(super) fn ernie4_5(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["use_bias"] = meta.has("blk.0.attn_q.bias").into();
    Ok(())
}

/// Mistral Small 3 is written as this architecture too, without the scale of queries.
pub(super) fn mistral3(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    match meta.float("attention.temperature_scale")? {
        None => {
            raw["model_type"] = "mistral".into();
            raw["architectures"] = json!(["MistralForCausalLM"]);
        }
        Some(beta) => {
            let mscale = meta.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
            if !raw["rope_scaling"].is_object() {
                return Err(meta.missing("rope.scaling.type"));
            }
            raw["rope_scaling"]["llama_4_scaling_beta"] = beta.into();
            raw["rope_scaling"]["mscale"] = mscale.into();
            raw["rope_scaling"]["mscale_all_dim"] = mscale.into();
        }
    }
    Ok(())
}

/// Layers without heads of k and v are convolutions. The width of the MLP is the one that it has.
pub(super) fn lfm2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    let key = "attention.head_count_kv";
    let heads = meta.per_layer(key)?.ok_or_else(|| meta.missing(key))?;
    let name = |heads: &u64| if *heads == 0 { "conv" } else { "full_attention" };
    raw["layer_types"] = heads.iter().map(name).collect();
    raw["conv_L_cache"] = meta.need("shortconv.l_cache")?.into();
    raw["conv_bias"] = meta.has("blk.0.shortconv.conv.bias").into();
    raw["block_auto_adjust_ff_dim"] = false.into();
    raw["block_ff_dim"] = raw["intermediate_size"].clone();
    raw["tie_embedding"] = raw["tie_word_embeddings"].clone();
    Ok(())
}

/// What Qwen's experts have in common. Layers without a router have an MLP.
fn qwen_experts(meta: &Metadata<'_>, raw: &mut Value, normalise: bool) -> Result<()> {
    let layers = 0..meta.need("block_count")?.min(1 << 16);
    raw["mlp_only_layers"] = layers.filter(|i| !meta.has(&format!("blk.{i}.ffn_gate_inp.weight"))).collect();
    raw["decoder_sparse_step"] = 1.into();
    raw["norm_topk_prob"] = normalise.into();
    raw["moe_intermediate_size"] = meta.need("expert_feed_forward_length")?.into();
    Ok(())
}

pub(super) fn qwen2moe(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    qwen_experts(meta, raw, false)?;
    raw["qkv_bias"] = meta.has("blk.0.attn_q.bias").into();
    raw["shared_expert_intermediate_size"] = meta.need("expert_shared_feed_forward_length")?.into();
    Ok(())
}

pub(super) fn qwen3moe(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    qwen3(meta, raw)?;
    qwen_experts(meta, raw, true)
}

/// Layers of attention have a q. What predicts further tokens counts as layers of the file, and is no part of the network.
pub(super) fn qwen35(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    let further = meta.unsigned("nextn_predict_layers")?.unwrap_or(0);
    let layers = meta.need("block_count")?.saturating_sub(further).min(1 << 16);
    let attends = |i: u64| meta.has(&format!("blk.{i}.attn_q.weight"));
    let name = |i| if attends(i) { "full_attention" } else { "linear_attention" };
    raw["num_hidden_layers"] = layers.into();
    raw["layer_types"] = (0..layers).map(name).collect();
    raw["attention_bias"] = (0..layers).any(|i| meta.has(&format!("blk.{i}.attn_q.bias"))).into();
    let (heads, inner) = (meta.need("ssm.time_step_rank")?, meta.need("ssm.inner_size")?);
    for (key, value) in [
        ("linear_num_key_heads", meta.need("ssm.group_count")?),
        ("linear_num_value_heads", heads),
        ("linear_key_head_dim", meta.need("ssm.state_size")?),
        ("linear_value_head_dim", inner.checked_div(heads).unwrap_or(0)),
        ("linear_conv_kernel_dim", meta.need("ssm.conv_kernel")?),
    ] {
        raw[key] = value.into();
    }
    Ok(())
}

pub(super) fn qwen35moe(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    qwen35(meta, raw)?;
    raw["moe_intermediate_size"] = meta.need("expert_feed_forward_length")?.into();
    raw["shared_expert_intermediate_size"] = meta.need("expert_shared_feed_forward_length")?.into();
    Ok(())
}

pub(super) fn minimax_m2(meta: &Metadata<'_>, raw: &mut Value) -> Result<()> {
    raw["rotary_dim"] = meta.need("rope.dimension_count")?.into();
    if let Some(width) = meta.unsigned("expert_feed_forward_length")? {
        raw["intermediate_size"] = width.into();
    }
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
