//! The metadata as the `config.json` that the model would have, read by the same code.

use serde_json::{Value, json};

use super::arch::{self, Arch};
use super::file::GgufFile;
use super::{rope, tokenizer};
use crate::arch::config::{ModelConfig, RopeScaling};
use crate::arch::families::config_from_json;
use crate::{Error, Result};

/// Keys that one architecture adds to the configuration, or changes in it.
pub(super) type Extras = fn(&Metadata<'_>, &mut Value) -> Result<()>;

/// The keys of the file's architecture.
pub(super) struct Metadata<'a> {
    pub(super) file: &'a GgufFile,
    arch: &'static Arch,
}

impl Metadata<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch.name)
    }

    pub(super) fn missing(&self, suffix: &str) -> Error {
        self.file.bad(&self.key(suffix), "missing")
    }

    fn bad(&self, suffix: &str, problem: String) -> Error {
        self.file.bad(&self.key(suffix), problem)
    }

    pub(super) fn unsigned(&self, suffix: &str) -> Result<Option<u64>> {
        self.file.unsigned(&self.key(suffix))
    }

    pub(super) fn need(&self, suffix: &str) -> Result<u64> {
        self.unsigned(suffix)?.ok_or_else(|| self.missing(suffix))
    }

    pub(super) fn float(&self, suffix: &str) -> Result<Option<f64>> {
        self.file.float(&self.key(suffix))
    }

    pub(super) fn text(&self, suffix: &str) -> Result<Option<&str>> {
        self.file.text(&self.key(suffix))
    }

    fn has(&self, tensor: &str) -> bool {
        self.file.tensors().contains_key(tensor)
    }

    /// A window, where 0 stands for none.
    fn window(&self) -> Result<Option<u64>> {
        Ok(self.unsigned("attention.sliding_window")?.filter(|&n| n > 0))
    }
}

/// What can be trained, or why not.
///
/// Values that converters leave out are stated all the same where families have other defaults: a merged model's
/// `config.json` goes to other readers too, some of which take `null` for a value.
pub(super) fn read(file: &GgufFile) -> Result<(&'static Arch, ModelConfig)> {
    let key = "general.architecture";
    let name = file.text(key)?.ok_or_else(|| file.bad(key, "missing"))?;
    let arch = arch::find(name).ok_or_else(|| {
        let names = arch::supported().collect::<Vec<_>>().join(", ");
        file.bad(key, format!("`{name}` is not supported"))
            .with_hint(format!("architectures of GGUF files that can be trained: {names}"))
    })?;
    if let Some(kind) = file.text("general.type")?.filter(|&kind| kind != "model") {
        return Err(file.bad("general.type", format!("this file is of the type `{kind}`, a model is needed")));
    }
    let meta = Metadata { file, arch };
    if meta.unsigned("expert_count")?.unwrap_or(0) > 0 {
        return Err(meta.bad("expert_count", "mixtures of experts are not supported".into()));
    }
    let (hidden, heads) = (meta.need("embedding_length")?, meta.need("attention.head_count")?);
    let head_dim = match meta.unsigned("attention.key_length")? {
        Some(given) => given,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    if let Some(other) = meta.unsigned("attention.value_length")?.filter(|&n| n != head_dim) {
        let problem = format!("{other} differs from the heads' width {head_dim}");
        return Err(meta.bad("attention.value_length", problem));
    }
    let dims = meta.unsigned("rope.dimension_count")?.unwrap_or(head_dim);
    if dims != head_dim && !arch.partial || dims > head_dim {
        let problem = format!("{dims} differs from the heads' width {head_dim}");
        return Err(meta.bad("rope.dimension_count", problem));
    }
    let vocab =
        match (file.tensors().get("token_embd.weight").map(|t| &t.shape[..]), meta.unsigned("vocab_size")?) {
            (Some([rows, _]), _) => *rows as u64,
            (_, Some(n)) => n,
            _ => return Err(file.bad("token_embd.weight", "missing")),
        };
    let eps = if arch.eps == "rms_norm_eps" { "layer_norm_rms_epsilon" } else { "layer_norm_epsilon" };
    let mut raw = json!({
        "architectures": [arch.class],
        "model_type": arch.model_type,
        "hidden_size": hidden,
        "intermediate_size": meta.need("feed_forward_length")?,
        "num_hidden_layers": meta.need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": meta.unsigned("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": meta.need("context_length")?,
        arch.eps: meta.float(&format!("attention.{eps}"))?,
        "rope_theta": meta.float("rope.freq_base")?.unwrap_or(10_000.0),
        "hidden_act": "silu",
        "tie_word_embeddings": !meta.has("output.weight"),
        "sliding_window": meta.window()?,
        "bos_token_id": tokenizer::token_id(file, "bos")?,
        "eos_token_id": tokenizer::token_id(file, "eos")?,
        "pad_token_id": tokenizer::token_id(file, "padding")?,
    });
    if arch.partial {
        // Readers cut `head_dim * share` to a whole number, which rounding must not bring below `dims`.
        let share = dims as f64 / head_dim as f64;
        let cut = (head_dim as f64 * share) as u64 != dims;
        raw["partial_rotary_factor"] = if cut { share.next_up() } else { share }.into();
    }
    let factors = rope::factors(file, rope::FACTORS, dims)?;
    raw["rope_scaling"] = match &factors {
        Some(factors) => rope::scaling_of(factors, &raw),
        None => rope::scaling(&meta, dims)?,
    };
    (arch.extras)(&meta, &mut raw)?;
    // A scaling that only the factors can express has no name that a `config.json` may use.
    let stated = raw.clone();
    if factors.is_some() {
        raw["rope_scaling"] = Value::Null;
    }
    let mut config = config_from_json(file.path(), raw)?;
    config.raw = stated;
    if let Some(factors) = factors {
        config.rope.scaling = RopeScaling::Factors(factors);
    }
    Ok((arch, config))
}

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
