//! Where the content of a checkpoint comes from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ferrotune_kernels::quant::Weight;
use serde_json::Value;

use super::generation_config::GenerationConfig;
use super::safetensors::OutTensor;
use crate::arch::config::ModelConfig;
use crate::{Error, Result};

/// A container of a model. Names, shapes, row order and values are those of a Hugging Face folder, whatever the container
/// has; another container is one file that implements this, and a line in `Checkpoint::open`.
pub(super) trait Source: Send + Sync {
    /// The files that hold the weights.
    fn weight_files(&self) -> Vec<&Path>;

    /// Whether the weight files hold the configuration too, so that their hash covers it.
    fn holds_config(&self) -> bool {
        false
    }

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;

    /// All tensor names of the network, sorted; the parts of a quantized weight count as one.
    fn names(&self) -> Vec<String>;

    /// What the weight files call a tensor, or would call it if it is not there.
    fn name_in_files(&self, name: &str) -> String {
        name.to_string()
    }

    /// Tensors that are no part of the network, as the files have them.
    fn carried(&self) -> Result<Vec<(String, OutTensor<'_>)>> {
        Ok(Vec::new())
    }

    /// The matrix `name` as it is stored, after checking its shape.
    fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight>;

    /// Rows of matrix `index` in the stacked tensor `name` of `shape` `[matrices, rows, cols]`.
    fn stacked(&self, name: &str, shape: [usize; 3], index: usize, rows: Range<usize>) -> Result<Weight>;

    /// Matrix `index` in the stacked tensor `name` of `shape` `[matrices, in, out]`, the other way round: of its outputs those
    /// from `first` on, `step` apart.
    fn stacked_columns(
        &self,
        name: &str,
        _shape: [usize; 3],
        _index: usize,
        _first: usize,
        _step: usize,
    ) -> Result<Weight> {
        Err(Error::config(name, "is not stacked here"))
    }

    /// The tensors that hold a tensor in MXFP4 or FP8, as they are in the file; none if it is not packed.
    fn packed(&self, _name: &str) -> Vec<(String, OutTensor<'_>)> {
        Vec::new()
    }

    /// The values of a small tensor of any shape as f32, after checking it.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>>;

    /// The part of the file that holds this tensor need not stay in memory.
    fn release(&self, _name: &str) {}

    /// Nothing of the weight files need stay in memory.
    fn release_all(&self) {}

    /// The content of `tokenizer.json`.
    fn tokenizer_json(&self) -> Result<Vec<u8>>;

    /// What a user should know before the model is used.
    fn warning(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// The chat template.
    fn chat_template(&self) -> Result<Option<String>>;

    /// The template for chats with tools, if it is another one.
    fn tool_template(&self) -> Result<Option<String>>;

    /// Names and sources of templates beside those two.
    fn other_templates(&self) -> Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }

    /// The special tokens by role, such as `bos_token`.
    fn special_tokens(&self) -> Result<BTreeMap<String, String>>;

    /// Whether the tokenizer puts a beginning-of-sequence token first, if it says so.
    fn add_bos(&self) -> Result<Option<bool>>;

    /// Suggested settings of generation.
    fn generation_config(&self) -> Result<GenerationConfig>;

    /// What `generation_config.json` has or would have.
    fn generation_json(&self, config: &ModelConfig) -> Result<Option<Value>>;

    /// Tokenizer, template and licence files, for a folder that is made from this model.
    fn sidecars(&self, config: &ModelConfig) -> Result<Vec<(String, Vec<u8>)>>;
}

/// The error for a tensor that is not there, with the nearest name that is.
pub(super) fn missing_tensor<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::tensor(path, name, "missing");
    let near = names.map(|n| (strsim::jaro_winkler(n, name), n)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, near)) if likeness > 0.9 => error.with_hint(format!("the file has `{near}`")),
        _ => error,
    }
}
