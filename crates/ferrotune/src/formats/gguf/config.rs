//! The metadata as the `config.json` that the model would have, read by the same code.

use serde_json::{Value, json};

use super::arch::{self, Arch};
use super::file::GgufFile;
use super::metadata::Metadata;
use super::{rope, tokenizer};
use crate::Result;
use crate::arch::config::{ModelConfig, RopeScaling};
use crate::arch::families::config_from_json;

/// The architecture of this name that has experts if the file has some.
fn find(file: &GgufFile, key: &str, name: &str) -> Result<&'static Arch> {
    let count = file.unsigned(&format!("{name}.expert_count"))?.unwrap_or(0);
    if let Some(arch) = arch::find(name, count > 0) {
        return Ok(arch);
    }
    Err(match arch::find(name, count == 0) {
        Some(_) => file.bad(&format!("{name}.expert_count"), format!("{count} experts are not supported")),
        None => file.bad(key, format!("`{name}` is not supported")),
    }
    .with_hint(format!("architectures of GGUF files that can be trained: {}", arch::supported())))
}

/// How many experts a layer has.
pub(super) fn experts(file: &GgufFile, arch: &'static Arch) -> Result<usize> {
    Ok(Metadata { file, prefix: arch.name }.unsigned("expert_count")?.unwrap_or(0) as usize)
}

/// What can be trained, or why not.
///
/// Values that converters leave out are stated all the same where families have other defaults: a merged model's
/// `config.json` goes to other readers too, some of which take `null` for a value.
pub(super) fn read(file: &GgufFile) -> Result<(&'static Arch, ModelConfig)> {
    let key = "general.architecture";
    let name = file.text(key)?.ok_or_else(|| file.bad(key, "missing"))?;
    let arch = find(file, key, name)?;
    if let Some(kind) = file.text("general.type")?.filter(|&kind| kind != "model") {
        return Err(file.bad("general.type", format!("this file is of the type `{kind}`, a model is needed")));
    }
    let meta = Metadata { file, prefix: arch.name };
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
    let eps = match meta.float("attention.layer_norm_rms_epsilon")? {
        None => meta.float("attention.layer_norm_epsilon")?,
        rms => rms,
    };
    // Some mixtures of experts have no other width than that of an expert.
    let width = match (meta.unsigned("feed_forward_length")?, meta.unsigned("expert_feed_forward_length")?) {
        (Some(width), _) | (None, Some(width)) => width,
        (None, None) => return Err(meta.missing("feed_forward_length")),
    };
    let mut raw = json!({
        "architectures": [arch.class],
        "model_type": arch.model_type,
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": meta.need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": meta.alike("attention.head_count_kv")?.unwrap_or(heads),
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": meta.need("context_length")?,
        arch.eps: eps,
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
    if arch.has_experts() {
        let count = meta.need("expert_count")?;
        raw["num_experts"] = count.into();
        raw["num_local_experts"] = count.into();
        raw["num_experts_per_tok"] = meta.need("expert_used_count")?.into();
        raw["output_router_logits"] = false.into();
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
