//! Files: model folders and GGUF files are opened here, adapters and models are written here.
//!
//! A [`Checkpoint`] gives the rest of the program one view of a base model wherever it comes from: the Hugging Face
//! names of its tensors, its configuration, its tokenizer and its chat template. Opening checks the whole structure
//! of the files, so a shortened download fails at once and not in the middle of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::arch::config::ModelConfig;
use crate::arch::families::{self, architecture};
use crate::{Error, Result};

pub mod adapter;
pub mod atomic;
pub mod bnb4;
pub(crate) mod bnb8;
mod fingerprint;
pub(crate) mod folder;
mod gguf;
pub mod hash;
pub mod mlx;
pub mod mmap;
pub mod safetensors;
mod shapes;

pub use atomic::write_atomic;

pub use fingerprint::Change;

use fingerprint::Files;
use folder::Folder;
use gguf::GgufModel;
use hash::hex;
use safetensors::SafeFile;
use shapes::Shapes;

/// File with the suggested settings of generation.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// An opened base model: a Hugging Face folder or a GGUF file.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    source: Source,
    files: Files,
    fingerprint: OnceLock<String>,
}

enum Source {
    Folder(Folder),
    Gguf(GgufModel),
    Shapes(Shapes),
}

impl Source {
    /// The files that hold the weights, in the order of their names.
    fn weight_files<'s>(&'s self, path: &'s Path) -> Vec<&'s Path> {
        let mut files: Vec<&Path> = match self {
            Source::Folder(folder) => folder.shards.files().iter().map(SafeFile::path).collect(),
            Source::Gguf(_) => vec![path],
            Source::Shapes(_) => Vec::new(),
        };
        files.sort_by_key(|path| path.file_name());
        files
    }
}

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

impl Checkpoint {
    /// Opens the model at `path`: a folder with `config.json` and safetensors, or a `.gguf` file.
    ///
    /// The configuration is checked first, so an unknown architecture is refused before any weight is looked at.
    pub fn open(path: &Path) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !about.is_dir() {
            if GgufModel::is(path) {
                let (model, config) = GgufModel::open(path)?;
                return Self::of(path, config, Source::Gguf(model));
            }
            return Err(Error::file(path, "neither a model folder nor a GGUF file")
                .with_hint("give the folder that holds config.json, or a .gguf file"));
        }
        let mut config = families::read_config(&path.join("config.json"))?;
        let folder = Folder::open(path)?;
        if architecture(&config)?.tied && folder.has_another_head() {
            config.untie();
        }
        Self::of(path, config, Source::Folder(folder))
    }

    /// A model of which only the configuration is known: matrices have sizes and no content. For plans.
    pub fn of_config(config: ModelConfig) -> Result<Self> {
        let path = config.path.clone();
        let shapes = Shapes::of(&config, &path)?;
        Self::of(&path, config, Source::Shapes(shapes))
    }

    fn of(path: &Path, config: ModelConfig, source: Source) -> Result<Self> {
        let files = Files::open(&source.weight_files(path))?;
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

    /// Whether the checkpoint has a tensor of this (Hugging Face) name.
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder(folder) => folder.shards.get(name).is_some(),
            Source::Gguf(model) => model.contains(name),
            Source::Shapes(_) => true,
        }
    }

    /// All tensor names, in Hugging Face's spelling, sorted.
    pub fn names(&self) -> Vec<String> {
        match &self.source {
            Source::Folder(folder) => folder.names(),
            Source::Gguf(model) => model.names(),
            Source::Shapes(_) => Vec::new(),
        }
    }

    /// The matrix `name` in the storage format it has in the file, after checking its shape.
    pub fn weight(&self, name: &str, rows: usize, cols: usize) -> Result<Weight> {
        match &self.source {
            Source::Folder(folder) => folder.weight(name, rows, cols),
            Source::Gguf(model) => model.weight(name, rows, cols),
            Source::Shapes(shapes) => shapes.weight(name, rows, cols),
        }
    }

    /// Says that a tensor was converted and will not be read again soon: its part of the file need not stay in memory.
    pub fn release(&self, name: &str) {
        match &self.source {
            Source::Folder(folder) => {
                if let Some((file, tensor)) = folder.shards.get(name) {
                    file.release(tensor);
                }
            }
            Source::Gguf(model) => model.release(name),
            Source::Shapes(_) => {}
        }
    }

    /// Lets go of all that is in memory of the weight files: what was looked at to make a network is not looked at again,
    /// and weights that are used where they lie are mapped again when they are touched.
    pub(crate) fn release_all(&self) {
        match &self.source {
            Source::Folder(folder) => folder.shards.release_all(),
            Source::Gguf(model) => model.release_all(),
            Source::Shapes(_) => {}
        }
    }

    /// Rows of matrix `index` in the stacked tensor `name` of `shape` `[matrices, rows, cols]`.
    pub fn stacked(&self, name: &str, shape: [usize; 3], index: usize, rows: Range<usize>) -> Result<Weight> {
        match &self.source {
            Source::Folder(folder) => folder.stacked(name, shape, index, rows),
            Source::Gguf(_) => Err(Error::tensor(self.path(), name, "stacked weights are not read")),
            Source::Shapes(shapes) => shapes.weight(name, rows.len(), shape[2]),
        }
    }

    /// The vector `name` (a norm's weight, a bias) as f32, after checking its length.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values = match &self.source {
            Source::Folder(folder) => folder.vector(name, len),
            Source::Gguf(model) => model.vector(name, len),
            Source::Shapes(_) => Ok(vec![0.0; len]),
        };
        // A vector is short, but megabytes around it may have come with it.
        self.release(name);
        values
    }

    /// The `tokenizer.json` of the model; made from the vocabulary for a GGUF file.
    pub fn tokenizer_json(&self) -> Result<Vec<u8>> {
        match &self.source {
            Source::Folder(folder) => folder.tokenizer_json(),
            Source::Gguf(model) => model.tokenizer_json(),
            Source::Shapes(_) => Err(Error::file(&self.path, "only the configuration is known")),
        }
    }

    /// What a user should know before the model is used: where the files leave open what changes its numbers.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let mut all = self.config.notes.clone();
        if let Source::Gguf(model) = &self.source {
            all.extend(model.warning()?);
        }
        Ok(all)
    }

    /// The chat template, if the model has one.
    pub fn chat_template(&self) -> Result<Option<String>> {
        match &self.source {
            Source::Folder(folder) => folder.chat_template(),
            Source::Gguf(model) => model.chat_template(),
            Source::Shapes(_) => Ok(None),
        }
    }

    /// The template for chats with tools, if the model has another one for them.
    pub fn tool_template(&self) -> Result<Option<String>> {
        match &self.source {
            Source::Folder(folder) => folder.tool_template(),
            Source::Gguf(model) => model.tool_template(),
            Source::Shapes(_) => Ok(None),
        }
    }

    /// The special tokens by role: `bos_token`, `eos_token`, `pad_token`, `unk_token`, ...
    pub fn special_tokens(&self) -> Result<BTreeMap<String, String>> {
        match &self.source {
            Source::Folder(folder) => folder.special_tokens(),
            Source::Gguf(model) => model.special_tokens(),
            Source::Shapes(_) => Ok(BTreeMap::new()),
        }
    }

    /// Whether the tokenizer's configuration asks for a beginning-of-sequence token; `None` if it does not say.
    pub fn add_bos(&self) -> Result<Option<bool>> {
        match &self.source {
            Source::Folder(folder) => folder.add_bos(),
            Source::Gguf(model) => model.add_bos().map(Some),
            Source::Shapes(_) => Ok(None),
        }
    }

    /// Suggested settings of generation; empty if the model has none.
    pub fn generation_config(&self) -> Result<GenerationConfig> {
        match &self.source {
            Source::Folder(folder) => folder.generation(),
            Source::Gguf(model) => model.generation(),
            Source::Shapes(_) => Ok(GenerationConfig::default()),
        }
    }

    /// The content of `generation_config.json`; of a GGUF file, what it would be.
    pub(crate) fn generation_json(&self) -> Result<Option<Value>> {
        match &self.source {
            Source::Folder(folder) => folder.json(GENERATION_CONFIG),
            Source::Gguf(model) => model.generation_json(&self.config).map(Some),
            Source::Shapes(_) => Ok(None),
        }
    }

    /// Tokens that end an answer: of the generation configuration, else of the model's.
    pub fn eos_ids(&self) -> Result<Vec<u32>> {
        let ids = self.generation_config()?.eos_token_ids;
        Ok(if ids.is_empty() { self.config.eos_token_ids.clone() } else { ids })
    }

    /// Tokenizer, template and licence files, for a folder that is made from this model.
    pub fn sidecars(&self) -> Result<Vec<(String, Vec<u8>)>> {
        match &self.source {
            Source::Folder(folder) => Ok(folder.sidecars()),
            Source::Gguf(model) => model.sidecars(&self.config),
            Source::Shapes(_) => Ok(Vec::new()),
        }
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
        // The configuration of a GGUF file is a part of it.
        if !matches!(self.source, Source::Gguf(_)) {
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

/// The error for a tensor that is not there, with the nearest name that is.
fn missing_tensor<'a>(path: &Path, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let error = Error::tensor(path, name, "missing");
    let near = names.map(|n| (strsim::jaro_winkler(n, name), n)).max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((likeness, near)) if likeness > 0.9 => error.with_hint(format!("the file has `{near}`")),
        _ => error,
    }
}
