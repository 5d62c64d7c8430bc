//! `config.json`: which network this is.
//!
//! Both spellings are read, the one of transformers 4 (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of
//! transformers 5 (`rope_parameters`, `dtype`). What we would compute wrongly is refused here, by name, before any
//! weight is read.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Values of `model_type` that can be trained.
pub const SUPPORTED: &[&str] = &["llama", "mistral", "qwen2"];

/// Sizes and constants of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// Family, as in `model_type`.
    pub model_type: String,
    /// Width of the residual stream, `D`.
    pub hidden_size: usize,
    /// Width inside the MLP, `F`.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads, `H`.
    pub num_attention_heads: usize,
    /// Key and value heads, `G`.
    pub num_key_value_heads: usize,
    /// Width of a head; not always `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Vocabulary, `V`.
    pub vocab_size: usize,
    /// Longest context the base was made for.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for long contexts.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Activation of the MLP's gate.
    pub hidden_act: Activation,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// Tokens a query sees back, if limited (`sliding_window` in use).
    pub sliding_window: Option<usize>,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End tokens; `config.json` may list several.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// How the weights in the folder are quantized, if they are.
    pub quantization: Option<Quantization>,
    /// The file as it was, for writing merged models.
    pub raw: Value,
}

/// Activation functions of the gated MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU with the tanh approximation.
    GeluTanh,
}

/// Quantized weights that a folder may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// bitsandbytes 4-bit (NF4 or FP4); each tensor says which.
    Bitsandbytes4,
    /// bitsandbytes 8-bit (LLM.int8): a scale per row.
    Bitsandbytes8,
}

/// Changes of the rotary frequencies for contexts longer than the pre-training's.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All positions divided by the factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of the sequence (dynamic NTK).
    Dynamic {
        /// Stretch of the context.
        factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// Low frequencies divided, high ones kept, a ramp between (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
    },
    /// YaRN: a ramp over dimensions and a scale on the attention.
    Yarn {
        /// Stretch of the context.
        factor: f64,
        /// Context of the pre-training.
        original_max_position_embeddings: usize,
        /// Scale on cosines and sines; from the factor when absent.
        attention_factor: Option<f64>,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is divided.
        beta_slow: f64,
        /// Numerator of the attention scale (DeepSeek's form), if given.
        mscale: Option<f64>,
        /// Denominator of the attention scale, if given.
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// A divisor for each rotary frequency (`rope_freqs.weight` of GGUF files).
    Factors(Vec<f32>),
}

impl ModelConfig {
    /// Reads the `config.json` at `path`; families outside `supported` are refused by name.
    pub fn read(path: &Path, supported: &[&str]) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let raw =
            serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))?;
        Self::from_json(path, raw, supported)
    }

    /// Interprets the content of a `config.json`; `path` is for messages.
    pub fn from_json(path: &Path, raw: Value, supported: &[&str]) -> Result<Self> {
        let Some(object) = raw.as_object() else {
            return Err(Error::file(path, "not a JSON object"));
        };
        let keys = Keys { path, object };
        let model_type = keys.text("model_type")?.ok_or_else(|| keys.missing("model_type"))?;
        if !supported.contains(&model_type) {
            let names = supported.join(", ");
            return Err(Error::file(path, format!("model_type `{model_type}` is not supported")).with_hint(format!(
                "supported architectures: {names}; a similar one is not used in its place, as it would train a wrong model"
            )));
        }
        let quantization = quantization(&keys)?;
        let hidden_size = keys.size("hidden_size")?;
        let num_attention_heads = keys.size("num_attention_heads")?;
        let num_key_value_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(num_attention_heads);
        let head_dim = match keys.optional_size("head_dim")? {
            Some(given) => given,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                let found =
                    format!("hidden_size {hidden_size} is not a multiple of {num_attention_heads} heads");
                return Err(keys.bad("head_dim", format!("absent, and {found}")));
            }
        };
        if head_dim % 2 == 1 {
            return Err(keys.bad("head_dim", format!("{head_dim} is odd, rotary embeddings need pairs")));
        }
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            let problem =
                format!("{num_key_value_heads} does not divide num_attention_heads {num_attention_heads}");
            return Err(keys.bad("num_key_value_heads", problem));
        }
        let max_position_embeddings = keys.optional_size("max_position_embeddings")?.unwrap_or(2048);
        let (rope_theta, rope_scaling) = rope(&keys, max_position_embeddings)?;
        let windowed = keys.flag("use_sliding_window")?.unwrap_or(true);
        Ok(ModelConfig {
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_hidden_layers: keys.size("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            vocab_size: keys.size("vocab_size")?,
            max_position_embeddings,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            hidden_act: activation(&keys)?,
            attention_bias: keys.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.flag("mlp_bias")?.unwrap_or(false),
            sliding_window: keys.optional_size("sliding_window")?.filter(|_| windowed),
            bos_token_id: keys.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: keys.tokens("eos_token_id")?,
            pad_token_id: keys.tokens("pad_token_id")?.first().copied(),
            quantization,
            model_type: model_type.to_string(),
            raw,
        })
    }
}

fn activation(keys: &Keys<'_>) -> Result<Activation> {
    // Gemma writes `hidden_activation` and leaves `hidden_act` for old readers.
    let key = if keys.object.get("hidden_activation").is_some_and(|v| !v.is_null()) {
        "hidden_activation"
    } else {
        "hidden_act"
    };
    match keys.text(key)? {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some(other) => {
            Err(keys.bad(key, format!("activation `{other}` is not supported (silu, gelu_pytorch_tanh)")))
        }
    }
}

fn quantization(keys: &Keys<'_>) -> Result<Option<Quantization>> {
    let Some(given) = keys.object.get("quantization_config").filter(|v| !v.is_null()) else {
        return Ok(None);
    };
    let method = given.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed");
    let on = |key: &str| given.get(key).and_then(Value::as_bool).unwrap_or(false);
    match method {
        "bitsandbytes" if on("load_in_4bit") => {
            let stored = given.get("bnb_4bit_quant_storage").and_then(Value::as_str).unwrap_or("uint8");
            if stored != "uint8" {
                let problem = format!("bnb_4bit_quant_storage `{stored}` is not supported (uint8)");
                return Err(keys.bad("quantization_config", problem));
            }
            Ok(Some(Quantization::Bitsandbytes4))
        }
        "bitsandbytes" if on("load_in_8bit") => Ok(Some(Quantization::Bitsandbytes8)),
        other => {
            let problem =
                format!("weights quantized by `{other}` are not read (bitsandbytes 4-bit and 8-bit are)");
            Err(keys.bad("quantization_config", problem).with_hint(
                "use the original unquantized model as the base; it is quantized while loading if the run asks for it",
            ))
        }
    }
}

fn rope(keys: &Keys<'_>, max_positions: usize) -> Result<(f64, RopeScaling)> {
    let new = keys.object.get("rope_parameters").filter(|v| !v.is_null());
    let old = keys.object.get("rope_scaling").filter(|v| !v.is_null());
    let (name, given) = match (new, old) {
        (Some(v), _) => ("rope_parameters", Some(v)),
        (None, v) => ("rope_scaling", v),
    };
    let empty = Map::new();
    let object = match given {
        None => &empty,
        Some(v) => v.as_object().ok_or_else(|| keys.bad(name, "not an object"))?,
    };
    if let Some((kind, _)) = object.iter().find(|(_, v)| v.is_object()) {
        return Err(keys.bad(name, format!("separate values for `{kind}` layers are not supported")));
    }
    let inner = Keys { path: keys.path, object };
    for at in [&inner, keys] {
        if let Some(part) = at.positive("partial_rotary_factor")?.filter(|&p| p != 1.0) {
            return Err(keys.bad("partial_rotary_factor", format!("{part} is not supported (1.0)")));
        }
    }
    let theta = match inner.positive("rope_theta")? {
        Some(theta) => theta,
        None => keys.positive("rope_theta")?.unwrap_or(10000.0),
    };
    let kind = match inner.text("rope_type")? {
        Some(kind) => kind,
        None => inner.text("type")?.unwrap_or("default"),
    };
    let need = |key: &str| {
        inner.positive(key)?.ok_or_else(|| keys.bad(name, format!("rope type `{kind}` needs `{key}`")))
    };
    let original = || -> Result<usize> {
        let key = "original_max_position_embeddings";
        Ok(match inner.optional_size(key)? {
            Some(n) => n,
            None => keys.optional_size(key)?.unwrap_or(max_positions),
        })
    };
    let scaling = match kind {
        "default" | "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: need("factor")? },
        "dynamic" => {
            RopeScaling::Dynamic { factor: need("factor")?, original_max_position_embeddings: original()? }
        }
        "llama3" => {
            let (low, high) = (need("low_freq_factor")?, need("high_freq_factor")?);
            if high <= low {
                return Err(
                    keys.bad(name, format!("high_freq_factor {high} is not above low_freq_factor {low}"))
                );
            }
            RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original()?,
            }
        }
        "yarn" => RopeScaling::Yarn {
            factor: need("factor")?,
            original_max_position_embeddings: original()?,
            attention_factor: inner.positive("attention_factor")?,
            beta_fast: inner.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: inner.positive("beta_slow")?.unwrap_or(1.0),
            mscale: inner.positive("mscale")?,
            mscale_all_dim: inner.positive("mscale_all_dim")?,
            truncate: inner.flag("truncate")?.unwrap_or(true),
        },
        // What our own merged folders say of a GGUF file's scaling that has no other name.
        "factors" => {
            let list = object.get("factors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let positive = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite() && *v > 0.0);
            match list.iter().map(positive).collect::<Option<Vec<f32>>>() {
                Some(factors) if !factors.is_empty() => RopeScaling::Factors(factors),
                _ => return Err(keys.bad(name, "`factors` is not a list of positive numbers")),
            }
        }
        other => {
            let known = "default, linear, dynamic, llama3, yarn";
            return Err(keys.bad(name, format!("rope type `{other}` is not supported ({known})")));
        }
    };
    Ok((theta, scaling))
}

/// Typed access to a JSON object; every refusal names the file and the key.
struct Keys<'a> {
    path: &'a Path,
    object: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn bad(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("`{key}`: {problem}"))
    }

    fn missing(&self, key: &str) -> Error {
        self.bad(key, "missing")
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key)
            .map(|v| v.as_str().ok_or_else(|| self.bad(key, format!("{v} is not a string"))))
            .transpose()
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key)
            .map(|v| v.as_bool().ok_or_else(|| self.bad(key, format!("{v} is not true or false"))))
            .transpose()
    }

    fn positive(&self, key: &str) -> Result<Option<f64>> {
        self.get(key)
            .map(|v| {
                let number = v.as_f64().filter(|n| n.is_finite() && *n > 0.0);
                number.ok_or_else(|| self.bad(key, format!("{v} is not a positive number")))
            })
            .transpose()
    }

    /// A size from 1 to 2^31; products of two of them then fit in 64 bits.
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                // Some configs write 4096.0.
                let number = v.as_u64().or_else(|| v.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as u64));
                let number = number.filter(|n| (1..=1 << 31).contains(n));
                number.map(|n| n as usize).ok_or_else(|| self.bad(key, format!("{v} is not a size")))
            })
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A token id or a list of them; -1 stands for none in some configs.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(value) => {
                token_ids(value).ok_or_else(|| self.bad(key, format!("{value} is not a token id or a list")))
            }
        }
    }
}

/// A token id or a list of token ids; negative ids mean none. `None` if it is neither.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    match value {
        Value::Array(list) => list.iter().map(|v| v.as_u64().and_then(|n| u32::try_from(n).ok())).collect(),
        one => match one.as_i64()? {
            n if n < 0 => Some(Vec::new()),
            n => Some(vec![u32::try_from(n).ok()?]),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base() -> Value {
        json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
               "num_attention_heads": 4, "vocab_size": 320})
    }

    fn with(changes: Value) -> Result<ModelConfig> {
        let mut raw = base();
        for (k, v) in changes.as_object().unwrap() {
            raw[k] = v.clone();
        }
        ModelConfig::from_json(Path::new("config.json"), raw, SUPPORTED)
    }

    fn refusal(changes: Value) -> String {
        with(changes).unwrap_err().to_string()
    }

    #[test]
    fn defaults_of_old_configs() {
        let c = with(json!({})).unwrap();
        assert_eq!((c.num_key_value_heads, c.head_dim, c.max_position_embeddings), (4, 16, 2048));
        assert_eq!((c.rope_theta, c.rope_scaling), (10000.0, RopeScaling::None));
        assert!(!c.tie_word_embeddings && c.eos_token_ids.is_empty() && c.sliding_window.is_none());
    }

    #[test]
    fn token_ids_may_be_lists_or_negative() {
        let c = with(json!({"eos_token_id": [7, 9], "pad_token_id": -1, "bos_token_id": null})).unwrap();
        assert_eq!((c.eos_token_ids, c.pad_token_id, c.bos_token_id), (vec![7, 9], None, None));
    }

    #[test]
    fn rope_types_in_both_spellings() {
        for changes in [
            json!({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 5e5}),
            json!({"rope_scaling": {"rope_type": "linear", "factor": 4}, "rope_theta": 500000}),
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
        ] {
            let c = with(changes).unwrap();
            assert_eq!((c.rope_theta, c.rope_scaling), (5e5, RopeScaling::Linear { factor: 4.0 }));
        }
        let c = with(
            json!({"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 99}),
        );
        assert!(matches!(
            c.unwrap().rope_scaling,
            RopeScaling::Yarn { original_max_position_embeddings: 99, beta_fast: 32.0, truncate: true, .. }
        ));
    }

    #[test]
    fn refusals_name_what_was_found() {
        let error = with(json!({"model_type": "qwen3_5"})).unwrap_err();
        assert!(error.to_string().contains("`qwen3_5`"), "{error}");
        assert!(error.hint().unwrap().contains("llama, mistral"));
        for (changes, name) in [
            (json!({"hidden_act": "relu"}), "`relu`"),
            (json!({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}), "`longrope`"),
            (json!({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}), "low_freq_factor"),
            (json!({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}), "full_attention"),
            (json!({"quantization_config": {"quant_method": "gptq", "bits": 4}}), "`gptq`"),
            (json!({"quantization_config": {"quant_method": "bitsandbytes"}}), "`bitsandbytes`"),
            (json!({"hidden_size": 0}), "`hidden_size`"),
            (json!({"hidden_size": -3}), "`hidden_size`"),
            (json!({"hidden_size": 66}), "`head_dim`"),
            (json!({"num_key_value_heads": 3}), "`num_key_value_heads`"),
            (json!({"vocab_size": null}), "`vocab_size`"),
            (json!({"rms_norm_eps": "small"}), "`rms_norm_eps`"),
            (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`"),
        ] {
            let message = refusal(changes);
            assert!(message.contains(name), "{message} does not name {name}");
        }
    }
}
