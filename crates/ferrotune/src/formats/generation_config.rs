//! `generation_config.json`: how a model's makers suggest to generate with it.

use serde_json::Value;

use crate::arch::config::token_ids;

/// File with the suggested settings of generation.
pub(crate) const GENERATION_CONFIG: &str = "generation_config.json";

/// What `generation_config.json` suggests; everything is optional.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Sample (`true`) or take the likeliest token.
    pub do_sample: Option<bool>,
    /// Softmax temperature.
    pub temperature: Option<f64>,
    /// Nucleus mass.
    pub top_p: Option<f64>,
    /// Number of candidates.
    pub top_k: Option<usize>,
    /// Least probability relative to the best candidate.
    pub min_p: Option<f64>,
    /// Divisor of the logits of tokens already there.
    pub repetition_penalty: Option<f64>,
    /// Length limit of an answer.
    pub max_new_tokens: Option<usize>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// The settings that the content of a file states; others are ignored.
    pub(crate) fn from_json(value: &Value) -> Self {
        let number = |key: &str| value.get(key).and_then(Value::as_f64);
        let count = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        GenerationConfig {
            do_sample: value.get("do_sample").and_then(Value::as_bool),
            temperature: number("temperature"),
            top_p: number("top_p"),
            top_k: count("top_k"),
            min_p: number("min_p"),
            repetition_penalty: number("repetition_penalty"),
            max_new_tokens: count("max_new_tokens"),
            eos_token_ids: value.get("eos_token_id").and_then(token_ids).unwrap_or_default(),
        }
    }
}
