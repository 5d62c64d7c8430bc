//! Adapter folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! The configuration is written with the keys that every PEFT since 0.6 knows, and others only when they are set: old
//! readers refuse keys that they do not know. Reading is the other way round: a key that we do not know is accepted
//! only with a value that changes nothing, and refused by name otherwise.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::atomic::write_atomic;
use super::mlx;
use super::safetensors::{OutTensor, SafeFile, write};
use crate::{Error, Result};

/// Name of the configuration in an adapter folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weights in an adapter folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What stands before every key of the weights file.
pub const PREFIX: &str = "base_model.model.";

/// The weights of the adapter folder, PEFT's or MLX-LM's.
pub fn weights_path(folder: &Path) -> PathBuf {
    folder.join(if mlx::is_adapter(folder) { mlx::WEIGHTS_FILE } else { WEIGHTS_FILE })
}

/// Which modules a list of names or a pattern selects.
#[derive(Debug, Clone, PartialEq)]
pub enum Modules {
    /// Names: exact, or as the end of a path after a dot.
    Names(Vec<String>),
    /// A regular expression that must match the whole path, or `all-linear`.
    Pattern(String),
}

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Dropout on the input of the branch.
    pub lora_dropout: f64,
    /// Which biases were trained: `none`, `all` or `lora_only`.
    pub bias: String,
    /// Scale by the square root of the rank.
    pub use_rslora: bool,
    /// Weight-decomposed form, with magnitude vectors.
    pub use_dora: bool,
    /// Whether B has a bias.
    pub lora_bias: bool,
    /// Modules with a branch.
    pub target_modules: Option<Modules>,
    /// Modules without one although they are targets.
    pub exclude_modules: Option<Modules>,
    /// Layers to which targets are limited.
    pub layers_to_transform: Option<Vec<usize>>,
    /// Name of the list of layers, when it is an unusual one.
    pub layers_pattern: Option<Vec<String>>,
    /// Ranks of modules by pattern; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas of modules by pattern; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Stacked weights of experts with branches.
    pub target_parameters: Option<Vec<String>>,
    /// Modules trained and stored whole.
    pub modules_to_save: Option<Vec<String>>,
    /// Rows of the embedding that were trained.
    pub trainable_token_indices: Option<Vec<u32>>,
    /// How A and B began: `true`, `false` or the name of a method.
    pub init_lora_weights: Value,
    /// Iterations of LoftQ, if that is how they began.
    pub loftq_iterations: Option<usize>,
    /// The base, as the user named it.
    pub base_model_name_or_path: Option<String>,
    /// Version of the base.
    pub revision: Option<String>,
    /// What the model does; `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        AdapterConfig {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            bias: "none".into(),
            use_rslora: false,
            use_dora: false,
            lora_bias: false,
            target_modules: None,
            exclude_modules: None,
            layers_to_transform: None,
            layers_pattern: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            target_parameters: None,
            modules_to_save: None,
            trainable_token_indices: None,
            init_lora_weights: Value::Bool(true),
            loftq_iterations: None,
            base_model_name_or_path: None,
            revision: None,
            task_type: Some("CAUSAL_LM".into()),
        }
    }
}

/// Keys that say nothing about what the trained adapter computes.
const IRRELEVANT: &[&str] = &[
    "auto_mapping",
    "inference_mode",
    "peft_version",
    "runtime_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "megatron_core",
    "qalora_group_size",
    // PEFT sets it aside for linears and embeddings, the only modules here.
    "fan_in_fan_out",
];

impl AdapterConfig {
    /// Interprets the content of an `adapter_config.json`; `path` is for messages.
    pub fn from_json(path: &Path, value: &Value) -> Result<Self> {
        let object = value.as_object().ok_or_else(|| Error::file(path, "not a JSON object"))?;
        let mut config = AdapterConfig { task_type: None, ..Default::default() };
        if object.get("peft_type").and_then(Value::as_str) != Some("LORA") {
            let found = object.get("peft_type").unwrap_or(&Value::Null);
            return Err(Error::file(path, format!("`peft_type`: {found} is not supported (\"LORA\")")));
        }
        for (key, value) in object {
            let bad = |problem: &str| Error::file(path, format!("`{key}`: {value} {problem}"));
            let flag = || value.as_bool().ok_or_else(|| bad("is not true or false"));
            let number = || value.as_f64().filter(|n| n.is_finite()).ok_or_else(|| bad("is not a number"));
            let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
            let text = || value.as_str().map(str::to_string).ok_or_else(|| bad("is not a string"));
            if value.is_null() {
                continue;
            }
            match key.as_str() {
                "peft_type" => {}
                "r" => config.r = size(value).filter(|&r| r > 0).ok_or_else(|| bad("is not a rank"))?,
                "lora_alpha" => config.lora_alpha = number()?,
                "lora_dropout" => {
                    config.lora_dropout = number()?;
                    if !(0.0..1.0).contains(&config.lora_dropout) {
                        return Err(bad("is not a probability"));
                    }
                }
                "bias" => {
                    config.bias = text()?;
                    if !matches!(config.bias.as_str(), "none" | "all" | "lora_only") {
                        return Err(bad("is not supported (none, all, lora_only)"));
                    }
                }
                "use_rslora" => config.use_rslora = flag()?,
                "use_dora" => config.use_dora = flag()?,
                "lora_bias" => config.lora_bias = flag()?,
                "target_modules" => {
                    config.target_modules = Some(modules(value).ok_or_else(|| bad(NOT_MODULES))?)
                }
                "exclude_modules" => {
                    config.exclude_modules = Some(modules(value).ok_or_else(|| bad(NOT_MODULES))?)
                }
                "layers_to_transform" => {
                    let layers = one_or_many(value, size).ok_or_else(|| bad("is not a list of layers"))?;
                    config.layers_to_transform = Some(layers);
                }
                "layers_pattern" => config.layers_pattern = Some(texts(value).ok_or_else(|| bad(NOT_TEXTS))?),
                "target_parameters" => {
                    config.target_parameters = Some(texts(value).ok_or_else(|| bad(NOT_TEXTS))?);
                }
                "modules_to_save" => {
                    config.modules_to_save = Some(texts(value).ok_or_else(|| bad(NOT_TEXTS))?)
                }
                "rank_pattern" => {
                    config.rank_pattern =
                        pattern(value, size).ok_or_else(|| bad("is not an object of ranks"))?;
                }
                "alpha_pattern" => {
                    config.alpha_pattern =
                        pattern(value, Value::as_f64).ok_or_else(|| bad("is not an object of numbers"))?;
                }
                "trainable_token_indices" => {
                    let rows =
                        token_ids(value).ok_or_else(|| bad("is not a list of ids of `embed_tokens`"))?;
                    config.trainable_token_indices = Some(rows);
                }
                // Without LoftQ it is an empty object.
                "loftq_config" => {
                    let part = |key: &str| value.get(key).and_then(Value::as_u64);
                    if part("loftq_bits").is_some_and(|bits| bits != 4) {
                        return Err(bad("is not supported (4 bits)"));
                    }
                    config.loftq_iterations = part("loftq_iter").and_then(|n| usize::try_from(n).ok());
                }
                "init_lora_weights" => config.init_lora_weights = value.clone(),
                "base_model_name_or_path" => config.base_model_name_or_path = Some(text()?),
                "revision" => config.revision = Some(text()?),
                "task_type" if value == "CAUSAL_LM" => config.task_type = Some(text()?),
                key if IRRELEVANT.contains(&key) || changes_nothing(value) => {}
                _ => {
                    return Err(bad("is not supported")
                        .with_hint("this adapter uses a method that ferrotune does not compute; it would be wrong to ignore it"));
                }
            }
        }
        Ok(config)
    }

    /// The content of `adapter_config.json`: top-level keys sorted as PEFT sorts them.
    ///
    /// Patterns keep their order, since the first one that matches counts.
    pub fn to_json(&self) -> Value {
        let alpha =
            |v: f64| if v.fract() == 0.0 && v.abs() < 1e15 { Value::from(v as i64) } else { Value::from(v) };
        let list = |m: &Modules| match m {
            Modules::Pattern(text) => Value::from(text.as_str()),
            Modules::Names(names) => {
                let mut names = names.clone();
                names.sort();
                names.into()
            }
        };
        let mut keys = vec![
            (
                "alpha_pattern",
                self.alpha_pattern.iter().map(|(k, v)| (k.clone(), alpha(*v))).collect::<Map<_, _>>().into(),
            ),
            ("auto_mapping", Value::Null),
            ("base_model_name_or_path", self.base_model_name_or_path.clone().into()),
            ("bias", self.bias.clone().into()),
            ("fan_in_fan_out", false.into()),
            ("inference_mode", true.into()),
            ("init_lora_weights", self.init_lora_weights.clone()),
            ("layers_pattern", self.layers_pattern.clone().into()),
            ("layers_to_transform", self.layers_to_transform.clone().into()),
            ("lora_alpha", alpha(self.lora_alpha)),
            ("lora_dropout", self.lora_dropout.into()),
            ("modules_to_save", self.modules_to_save.clone().into()),
            ("peft_type", "LORA".into()),
            ("r", self.r.into()),
            (
                "rank_pattern",
                self.rank_pattern
                    .iter()
                    .map(|(k, v)| (k.clone(), Value::from(*v)))
                    .collect::<Map<_, _>>()
                    .into(),
            ),
            ("revision", self.revision.clone().into()),
            ("target_modules", self.target_modules.as_ref().map(list).unwrap_or_default()),
            ("task_type", self.task_type.clone().into()),
            ("use_dora", self.use_dora.into()),
            ("use_rslora", self.use_rslora.into()),
        ];
        if self.lora_bias {
            keys.push(("lora_bias", true.into()));
        }
        if let Some(iterations) = self.loftq_iterations {
            let config = [("loftq_bits", 4), ("loftq_iter", iterations)];
            let config: Map<_, _> =
                config.map(|(k, v)| (k.to_string(), Value::from(v))).into_iter().collect();
            keys.push(("loftq_config", config.into()));
        }
        if let Some(modules) = &self.exclude_modules {
            keys.push(("exclude_modules", list(modules)));
        }
        if let Some(names) = &self.target_parameters {
            keys.push(("target_parameters", names.clone().into()));
        }
        if let Some(rows) = &self.trainable_token_indices {
            keys.push(("trainable_token_indices", rows.clone().into()));
        }
        keys.sort_by_key(|(key, _)| *key);
        keys.into_iter().map(|(key, value)| (key.to_string(), value)).collect::<Map<_, _>>().into()
    }
}

const NOT_MODULES: &str = "is neither a list of module names nor a pattern";
const NOT_TEXTS: &str = "is not a list of strings";

/// `false`, zero, nothing: what a feature has that is not in use.
fn changes_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(word) => matches!(word.as_str(), "" | "none"),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(changes_nothing),
    }
}

fn one_or_many<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    match value {
        Value::Array(list) => list.iter().map(read).collect(),
        one => Some(vec![read(one)?]),
    }
}

/// Ids of tokens: a list, or one under the embedding's name.
fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Value::Object(map) => match map.iter().collect::<Vec<_>>().as_slice() {
            [(name, list)] if name.ends_with("embed_tokens") => one_or_many(list, id),
            _ => None,
        },
        list => one_or_many(list, id),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    one_or_many(value, |v| v.as_str().map(str::to_string))
}

fn modules(value: &Value) -> Option<Modules> {
    match value {
        Value::String(text) => Some(Modules::Pattern(text.clone())),
        // A set, which PEFT writes in any order.
        Value::Array(_) => {
            let mut names = texts(value)?;
            names.sort();
            Some(Modules::Names(names))
        }
        _ => None,
    }
}

fn pattern<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<(String, T)>> {
    value.as_object()?.iter().map(|(key, v)| Some((key.clone(), read(v)?))).collect()
}

/// Parts of a module after which PEFT's own names in memory have the adapter's name.
const NAMED: [&str; 7] = [
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "token_adapter",
    "modules_to_save",
];

/// The name of a tensor as PEFT saves it: without the adapter's name `default`, which the state of a model in memory has,
/// and without a suffix of magnitudes that some versions wrote.
fn plain_name(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let Some(at) = parts.windows(2).position(|pair| NAMED.contains(&pair[0]) && pair[1] == "default") {
        parts.remove(at + 1);
        // A module that is trained whole is saved under its own name.
        if parts[at] == "modules_to_save" {
            parts.remove(at);
        }
    }
    if parts.ends_with(&["lora_magnitude_vector", "weight"]) {
        parts.pop();
    }
    parts.join(".")
}

/// A tensor of an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterTensor {
    /// Its key without [`PREFIX`], such as `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub name: String,
    /// Shape; A is `[r, in]`, B is `[out, r]`.
    pub shape: Vec<usize>,
    /// Values.
    pub values: Vec<f32>,
}

/// An adapter folder.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// The configuration.
    pub config: AdapterConfig,
    /// The tensors, sorted by name.
    pub tensors: Vec<AdapterTensor>,
}

impl AdapterFile {
    /// Reads the adapter in `folder`, PEFT's or MLX-LM's; its tensors may be F32, F16 or BF16.
    pub fn read(folder: &Path) -> Result<Self> {
        if mlx::is_adapter(folder) {
            return mlx::read(folder);
        }
        let path = folder.join(CONFIG_FILE);
        let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
        let value = crate::json::in_file(&path, &text)?;
        let config = AdapterConfig::from_json(&path, &value)?;
        let path = folder.join(WEIGHTS_FILE);
        if !path.is_file() && folder.join("adapter_model.bin").is_file() {
            return Err(Error::file(&path, "missing, only adapter_model.bin is here").with_hint(
                "pickled weights (.bin) can run code and are not read; save the adapter as safetensors",
            ));
        }
        let file = SafeFile::open(&path)?;
        let mut tensors = Vec::new();
        for (key, _) in file.iter() {
            let Some(name) = key.strip_prefix(PREFIX) else {
                return Err(Error::tensor(&path, key, format!("its key does not start with `{PREFIX}`")));
            };
            let (shape, values) = file.f32(key)?;
            tensors.push(AdapterTensor { name: plain_name(name), shape, values });
        }
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let problem = "stands twice, with and without the name of an adapter";
            return Err(Error::tensor(&path, format!("{PREFIX}{}", twice[0].name), problem));
        }
        let adapter = AdapterFile { config, tensors };
        adapter.check_pairs(&path)?;
        Ok(adapter)
    }

    /// A tensor by its name without the prefix.
    pub fn get(&self, name: &str) -> Option<&AdapterTensor> {
        let found = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[found])
    }

    /// Every A has its B of the same rank, and the other way round.
    fn check_pairs(&self, path: &Path) -> Result<()> {
        for tensor in &self.tensors {
            let refuse = |problem: String| Error::tensor(path, format!("{PREFIX}{}", tensor.name), problem);
            let (module, other, ours, theirs) =
                if let Some(module) = tensor.name.strip_suffix(".lora_A.weight") {
                    (module, "lora_B.weight", 0, 1)
                } else if let Some(module) = tensor.name.strip_suffix(".lora_B.weight") {
                    (module, "lora_A.weight", 1, 0)
                } else {
                    continue;
                };
            if tensor.shape.len() != 2 {
                return Err(refuse(format!("shape is {:?}, expected a matrix", tensor.shape)));
            }
            let other = format!("{module}.{other}");
            let pair = self.get(&other).ok_or_else(|| refuse(format!("`{PREFIX}{other}` is missing")))?;
            if pair.shape.get(theirs) != Some(&tensor.shape[ours]) {
                let problem =
                    format!("shape is {:?}, that of `{PREFIX}{other}` is {:?}", tensor.shape, pair.shape);
                return Err(refuse(format!("{problem}: the ranks differ")));
            }
        }
        Ok(())
    }

    /// Writes the adapter to `folder`, which is made if need be; the configuration comes last.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        let tensors: Vec<_> = self
            .tensors
            .iter()
            .map(|t| (format!("{PREFIX}{}", t.name), OutTensor::f32(&t.shape, &t.values)))
            .collect();
        write(&folder.join(WEIGHTS_FILE), &tensors)?;
        write_atomic(&folder.join(CONFIG_FILE), format!("{:#}", self.config.to_json()).as_bytes())
    }
}
