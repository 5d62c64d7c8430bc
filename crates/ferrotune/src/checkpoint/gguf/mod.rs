//! GGUF files as base models.
//!
//! Names, shapes and row order come out as in a Hugging Face folder; blocks stay as they are in the file. The `llama`
//! architecture stores the rows of q and k with the two halves of each head interleaved. Since rows are whole blocks,
//! putting them back is a copy of rows, which needs no decoding.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ferrotune_kernels::quant::{Bytes, Weight};
use serde_json::{Value, json};

use super::GenerationConfig;
use crate::model::config::{ModelConfig, RopeScaling};
use crate::{Error, Result};

mod file;
mod tokenizer;

use file::{GgufFile, TensorInfo, TensorType};

/// Values of `general.architecture` that can be trained.
pub const SUPPORTED: &[&str] = &["llama"];

/// Divisors of the rotary frequencies; becomes a part of the configuration.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// An opened GGUF model.
pub(super) struct GgufModel {
    file: GgufFile,
    /// Hugging Face name to the file's name.
    names: BTreeMap<String, String>,
    /// Heads of q and of k; their rows are interleaved.
    heads: (usize, usize),
}

impl GgufModel {
    /// Whether the path is a GGUF file, by its name or its first bytes.
    pub(super) fn is(path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) || GgufFile::is(path)
    }

    pub(super) fn open(path: &Path) -> Result<(Self, ModelConfig)> {
        let file = GgufFile::open(path)?;
        let config = config(&file)?;
        let names = file
            .tensors()
            .keys()
            .filter(|name| *name != ROPE_FACTORS && !name.ends_with(".attn_rot_embd"))
            .map(|name| (hf_name(name).unwrap_or_else(|| name.clone()), name.clone()))
            .collect();
        let heads = (config.num_attention_heads, config.num_key_value_heads);
        Ok((GgufModel { file, names, heads }, config))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.names.keys().cloned().collect()
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<(&TensorInfo, Bytes)> {
        let path = self.file.path();
        let own = self
            .names
            .get(name)
            .ok_or_else(|| super::missing_tensor(path, name, self.names.keys().map(String::as_str)))?;
        let info = &self.file.tensors()[own];
        if info.shape != expected {
            let problem = format!("shape is {:?}, the metadata asks for {expected:?}", info.shape);
            return Err(Error::tensor(path, own, problem));
        }
        let rows = expected[0];
        let heads = match name.rsplit_once('.').map_or(name, |(stem, _)| stem) {
            stem if stem.ends_with("self_attn.q_proj") => self.heads.0,
            stem if stem.ends_with("self_attn.k_proj") => self.heads.1,
            _ => return Ok((info, self.file.bytes(info))),
        };
        if !rows.is_multiple_of(2 * heads) {
            return Err(Error::tensor(
                path,
                own,
                format!("{rows} rows are not pairs of halves of {heads} heads"),
            ));
        }
        Ok((info, deinterleave(&self.file.bytes(info), rows, rows / heads)))
    }

    pub(super) fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (info, bytes) = self.find(name, &[rows, cols])?;
        as_weight(info.kind, rows, cols, bytes)
    }

    pub(super) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let (info, bytes) = self.find(name, &[len])?;
        let mut values = vec![0.0; len];
        as_weight(info.kind, 1, len, bytes)?.decode(0, 0, &mut values);
        Ok(values)
    }

    pub(super) fn tokenizer_json(&self) -> Result<Vec<u8>> {
        Ok(tokenizer::build(&self.file)?.to_string().into_bytes())
    }

    pub(super) fn chat_template(&self) -> Result<Option<String>> {
        Ok(self.file.text("tokenizer.chat_template")?.map(str::to_string))
    }

    pub(super) fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        tokenizer::special_tokens(&self.file)
    }

    pub(super) fn add_bos(&self) -> Result<bool> {
        tokenizer::add_bos(&self.file)
    }

    pub(super) fn generation(&self) -> Result<GenerationConfig> {
        let mut ends = BTreeSet::new();
        for role in ["eos", "eot", "eom"] {
            ends.extend(tokenizer::token_id(&self.file, role)?);
        }
        Ok(GenerationConfig { eos_token_ids: ends.into_iter().collect(), ..Default::default() })
    }

    /// The files that a Hugging Face folder of this model would have beside its weights.
    pub(super) fn sidecars(&self, config: &ModelConfig) -> Result<Vec<(String, Vec<u8>)>> {
        let mut about = json!({
            "add_bos_token": self.add_bos()?,
            "clean_up_tokenization_spaces": false,
            "model_max_length": config.max_position_embeddings,
            "tokenizer_class": "PreTrainedTokenizerFast",
        });
        for (role, text) in self.special_tokens()? {
            about[role] = text.into();
        }
        if let Some(template) = self.chat_template()? {
            about["chat_template"] = template.into();
        }
        let generation = json!({
            "bos_token_id": config.bos_token_id,
            "eos_token_id": self.generation()?.eos_token_ids,
            "pad_token_id": config.pad_token_id,
        });
        let file = |name: &str, value: &Value| (name.to_string(), format!("{value:#}\n").into_bytes());
        Ok(vec![
            ("tokenizer.json".to_string(), self.tokenizer_json()?),
            file("tokenizer_config.json", &about),
            file("generation_config.json", &generation),
        ])
    }

    pub(super) fn parts(&self) -> (&[u8], &[u8]) {
        self.file.parts()
    }
}

fn as_weight(kind: TensorType, rows: usize, cols: usize, bytes: Bytes) -> Result<Weight> {
    Ok(match kind {
        TensorType::Dense(dtype) => Weight::dense(rows, cols, dtype, bytes)?,
        TensorType::Block(kind) => Weight::gguf(rows, cols, kind, bytes)?,
    })
}

/// Rows of heads of `head` rows, from interleaved halves (0, h, 1, h+1, ...) to one half after the other.
fn deinterleave(bytes: &Bytes, rows: usize, head: usize) -> Bytes {
    let bytes = bytes.as_slice();
    let size = bytes.len() / rows;
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (start, within) = (row / head * head, row % head);
        let from = start + within % (head / 2) * 2 + within / (head / 2);
        out.extend_from_slice(&bytes[from * size..(from + 1) * size]);
    }
    Bytes::owned(out)
}

/// The Hugging Face name of a tensor of the llama architecture.
fn hf_name(name: &str) -> Option<String> {
    match name {
        "token_embd.weight" => return Some("model.embed_tokens.weight".into()),
        "output_norm.weight" => return Some("model.norm.weight".into()),
        "output.weight" => return Some("lm_head.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (module, kind) = part.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// The metadata as the `config.json` that this model would have, read by the same code.
fn config(file: &GgufFile) -> Result<ModelConfig> {
    let key = "general.architecture";
    let architecture = file.text(key)?.ok_or_else(|| file.bad(key, "missing"))?;
    if !SUPPORTED.contains(&architecture) {
        let names = SUPPORTED.join(", ");
        return Err(file
            .bad(key, format!("`{architecture}` is not supported"))
            .with_hint(format!("architectures of GGUF files that can be trained: {names}")));
    }
    if let Some(kind) = file.text("general.type")?.filter(|&kind| kind != "model") {
        return Err(file.bad("general.type", format!("this file is of the type `{kind}`, a model is needed")));
    }
    let name = |suffix: &str| format!("llama.{suffix}");
    let unsigned = |suffix: &str| file.unsigned(&name(suffix));
    let need = |suffix: &str| unsigned(suffix)?.ok_or_else(|| file.bad(&name(suffix), "missing"));
    if unsigned("expert_count")?.unwrap_or(0) > 0 {
        return Err(file.bad(&name("expert_count"), "mixtures of experts are not supported"));
    }
    let (hidden, heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_dim = match unsigned("attention.key_length")? {
        Some(given) => given,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    for suffix in ["attention.value_length", "rope.dimension_count"] {
        if let Some(other) = unsigned(suffix)?.filter(|&n| n != head_dim) {
            return Err(file.bad(&name(suffix), format!("{other} differs from the heads' width {head_dim}")));
        }
    }
    let tensors = file.tensors();
    let vocab = match (tensors.get("token_embd.weight").map(|t| &t.shape[..]), unsigned("vocab_size")?) {
        (Some([rows, _]), _) => *rows as u64,
        (_, Some(n)) => n,
        _ => return Err(file.bad("token_embd.weight", "missing")),
    };
    let bias = |part: &str| tensors.contains_key(&format!("blk.0.{part}.bias"));
    let factors = factors(file, head_dim)?;
    let original = unsigned("rope.scaling.original_context_length")?;
    let mut raw = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": unsigned("attention.head_count_kv")?,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": need("context_length")?,
        "rms_norm_eps": file.float(&name("attention.layer_norm_rms_epsilon"))?,
        "rope_theta": file.float(&name("rope.freq_base"))?,
        "hidden_act": "silu",
        "attention_bias": bias("attn_q"),
        "mlp_bias": bias("ffn_gate"),
        "tie_word_embeddings": !tensors.contains_key("output.weight"),
        "sliding_window": unsigned("attention.sliding_window")?,
        "bos_token_id": tokenizer::token_id(file, "bos")?,
        "eos_token_id": tokenizer::token_id(file, "eos")?,
        "pad_token_id": tokenizer::token_id(file, "padding")?,
    });
    raw["rope_scaling"] = match (&factors, file.text(&name("rope.scaling.type"))?) {
        (Some(factors), _) => scaling_of(factors, &raw),
        (None, None | Some("none")) => Value::Null,
        (None, Some(kind)) => json!({
            "rope_type": kind,
            "factor": file.float(&name("rope.scaling.factor"))?,
            "attention_factor": file.float(&name("rope.scaling.attn_factor"))?,
            "original_max_position_embeddings": original,
        }),
    };
    // A scaling that only the factors can express has no name that a `config.json` may use.
    let stated = raw.clone();
    if factors.is_some() {
        raw["rope_scaling"] = Value::Null;
    }
    let mut config = ModelConfig::from_json(file.path(), raw, &["llama"])?;
    config.raw = stated;
    if let Some(factors) = factors {
        config.rope.scaling = RopeScaling::Factors(factors);
    }
    Ok(config)
}

/// The divisors of the rotary frequencies, if the file has them.
fn factors(file: &GgufFile, head_dim: u64) -> Result<Option<Vec<f32>>> {
    let Some(info) = file.tensors().get(ROPE_FACTORS) else { return Ok(None) };
    let refuse = |problem: String| Error::tensor(file.path(), ROPE_FACTORS, problem);
    if info.shape.len() != 1 || info.shape[0] as u64 != head_dim / 2 {
        return Err(refuse(format!("shape is {:?}, expected [{}]", info.shape, head_dim / 2)));
    }
    let len = info.shape[0];
    let mut values = vec![0.0; len];
    as_weight(info.kind, 1, len, file.bytes(info))?.decode(0, 0, &mut values);
    match values.iter().find(|v| !v.is_finite() || **v <= 0.0) {
        Some(bad) => Err(refuse(format!("factor {bad} is not a positive number"))),
        None => Ok(Some(values)),
    }
}

/// The `rope_scaling` that gives these factors, for the `config.json` of a merged model.
///
/// Converters make them from Llama 3's scaling, whose four numbers are the same in all its models but for the factor.
/// Anything else gets a type that no other reader knows, so that it is refused and not ignored.
fn scaling_of(factors: &[f32], raw: &Value) -> Value {
    let theta = raw["rope_theta"].as_f64().unwrap_or(10000.0);
    let (low, high, original) = (1.0, 4.0, 8192.0);
    for factor in [8.0, 32.0] {
        let alike = factors.iter().enumerate().all(|(i, &found)| {
            let wavelength = std::f64::consts::TAU * theta.powf(i as f64 / factors.len() as f64);
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - smooth) / factor + smooth);
            (found as f64 / expected - 1.0).abs() < 1e-4
        });
        if alike {
            return json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low,
                          "high_freq_factor": high, "original_max_position_embeddings": original as u64});
        }
    }
    json!({"rope_type": "factors", "factors": factors})
}

#[cfg(test)]
mod tests;
