//! A base model as the rest of the program sees it, wherever it comes from: the Hugging Face names of its tensors, its
//! configuration, its tokenizer and its chat template.
//!
//! Opening checks the whole structure of the files, so a shortened download fails at once and not in the middle of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::fingerprint::{Change, Files};
use super::folder::Folder;
use super::generation_config::GenerationConfig;
use super::gguf::GgufModel;
use super::hash::hex;
use super::quantized;
use super::safetensors::OutTensor;
use super::shapes::Shapes;
use super::source::Source;
use crate::arch::config::ModelConfig;
use crate::arch::families::{self, architecture};
use crate::{Error, Result};

/// An opened base model: a Hugging Face folder or a GGUF file.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    source: Box<dyn Source>,
    files: Files,
    fingerprint: OnceLock<String>,
}

impl Checkpoint {
    /// Opens the model at `path`: a folder with `config.json` and safetensors, or a `.gguf` file.
    ///
    /// The configuration is checked first, so an unknown architecture is refused before any weight is looked at.
    pub fn open(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !about.is_dir() {
            if GgufModel::is(path) {
                let (model, config) = GgufModel::open(path)?;
                return Self::new(path, config, Box::new(model));
            }
            return Err(Error::file(path, "neither a model folder nor a GGUF file")
                .with_hint("give the folder that holds config.json, or a .gguf file"));
        }
        let mut config = families::read_config(&path.join("config.json"))?;
        quantized::stated(&config)?;
        let folder = Folder::open(path, &config)?;
        if architecture(&config)?.tied && folder.has_another_head() {
            config.untie();
        }
        Self::new(path, config, Box::new(folder))
    }

    /// A model of which only the configuration is known: matrices have sizes and no content. For plans.
    pub fn from_config(config: ModelConfig) -> Result<Self> {
        let path = config.path.clone();
        let shapes = Shapes::from_config(&config, &path)?;
        Self::new(&path, config, Box::new(shapes))
    }

    fn new(path: &Path, config: ModelConfig, source: Box<dyn Source>) -> Result<Self> {
        let mut weights = source.weight_files();
        weights.sort_by_key(|path| path.file_name());
        let files = Files::open(&weights)?;
        Ok(Checkpoint { path: path.to_path_buf(), config, source, files, fingerprint: OnceLock::new() })
    }

    /// Where the model was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether the checkpoint has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    /// All tensor names of the network, as the tree of modules has them, sorted.
    pub fn names(&self) -> Vec<String> {
        self.source.names()
    }

    /// What the weight files call a tensor of the network, or would call it if it is not there.
    pub(crate) fn name_in_files(&self, name: &str) -> String {
        self.source.name_in_files(name)
    }

    /// Tensors that are no part of the network, such as a vision tower, under the names of the files. They are read when they
    /// are written, one at a time.
    pub(crate) fn carried(&self) -> Result<Vec<(String, OutTensor<'_>)>> {
        self.source.carried()
    }

    /// The matrix `name` in the storage format it has in the file, after checking its shape.
    pub fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        self.source.weight(name, rows, cols)
    }

    /// Says that a tensor was converted and will not be read again soon: its part of the file need not stay in memory.
    pub fn release(&self, name: &str) {
        self.source.release(name);
    }

    /// Lets go of all that is in memory of the weight files: what was looked at to make a network is not looked at again,
    /// and weights that are used where they lie are mapped again when they are touched.
    pub(crate) fn release_all(&self) {
        self.source.release_all();
    }

    /// Rows of matrix `index` in the stacked tensor `name` of `shape` `[matrices, rows, cols]`.
    pub fn stacked(&self, name: &str, shape: [usize; 3], index: usize, rows: Range<usize>) -> Result<Weight> {
        self.source.stacked(name, shape, index, rows)
    }

    /// Matrix `index` in the stacked tensor `name` of `shape` `[matrices, in, out]`, the other way round: of its outputs those
    /// from `first` on, `step` apart.
    pub(crate) fn stacked_columns(
        &self,
        name: &str,
        shape: [usize; 3],
        index: usize,
        first: usize,
        step: usize,
    ) -> Result<Weight> {
        self.source.stacked_columns(name, shape, index, first, step)
    }

    /// The tensors that hold a tensor in MXFP4 or FP8, as they are in the file; none if it is not packed.
    pub(crate) fn packed(&self, name: &str) -> Vec<(String, OutTensor<'_>)> {
        self.source.packed(name)
    }

    /// The vector `name` (a norm's weight, a bias) as f32, after checking its length.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.values(name, &[len])
    }

    /// The values of a small tensor of any shape as f32, after checking it.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let values = self.source.values(name, shape);
        // It is small, but megabytes around it may have come with it.
        self.release(name);
        values
    }

    /// The `tokenizer.json` of the model; made from the vocabulary for a GGUF file.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>> {
        self.source.tokenizer_json()
    }

    /// What a user should know before the model is used: where the files leave open what changes its numbers.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let mut all = self.config.notes.clone();
        all.extend(self.source.warning()?);
        Ok(all)
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Result<Option<String>> {
        self.source.chat_template()
    }

    /// The template for chats with tools, if the model has another one for them.
    pub fn tool_template(&self) -> Result<Option<String>> {
        self.source.tool_template()
    }

    /// Names and sources of templates beside those two.
    pub fn other_templates(&self) -> Result<Vec<(String, String)>> {
        self.source.other_templates()
    }

    /// The special tokens by role: `bos_token`, `eos_token`, `pad_token`, `unk_token`, ...
    pub fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        self.source.special_tokens()
    }

    /// Whether the tokenizer's configuration asks for a beginning-of-sequence token; `None` if it does not say.
    pub fn add_bos(&self) -> Result<Option<bool>> {
        self.source.add_bos()
    }

    /// Suggested settings of generation; empty if the model has none.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        self.source.generation_config()
    }

    /// The content of `generation_config.json`; of a GGUF file, what it would be.
    pub(crate) fn generation_json(&self) -> Result<Option<Value>> {
        self.source.generation_json(&self.config)
    }

    /// Tokens that end an answer: of the generation configuration, else of the model's.
    pub fn eos_ids(&self) -> Result<Vec<u32>> {
        let ids = self.generation_config()?.eos_token_ids;
        Ok(if ids.is_empty() { self.config.eos_token_ids.clone() } else { ids })
    }

    /// Tokenizer, template and licence files, for a folder that is made from this model.
    pub fn sidecars(&self) -> Result<Vec<(String, Vec<u8>)>> {
        self.source.sidecars(&self.config)
    }

    /// Tensors of the file that no name in `consumed` stands for: a sign that a part of the model was overlooked.
    ///
    /// Buffers that old exporters stored although they follow from the configuration are not counted.
    pub fn unused(&self, consumed: &BTreeSet<String>) -> Vec<String> {
        let derived = |name: &str| name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".masked_bias");
        self.names().into_iter().filter(|name| !consumed.contains(name) && !derived(name)).collect()
    }

    /// A hash of the model's content, for receipts, resumed runs and caches; 64 hexadecimal digits.
    ///
    /// It is SHA-256 over the configuration and SHA-256 of every weight file, in the order of their names. Each file is
    /// read whole once, several at a time on these threads; see [`Checkpoint::keep_hashes`]. It is computed once for an opened checkpoint.
    pub fn fingerprint(&self, threads: &Threads) -> Result<String> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        if !self.source.holds_config() {
            hash.update(self.config.raw.to_string());
        }
        self.files.hashes(threads)?.iter().for_each(|sha256| hash.update(sha256));
        Ok(self.fingerprint.get_or_init(|| hex(&hash.finalize())).clone())
    }

    /// Keeps hashes of long weight files in `folder`, so that the next start does not read them again to hash them.
    pub fn keep_hashes(&mut self, folder: &Path) {
        self.files.keep_in(folder);
    }

    /// Whether a weight file has another content than when the checkpoint was opened.
    pub fn changed(&self) -> Option<Change> {
        self.files.changed()
    }
}
