//! Adapter folders in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

mod config;
mod lora;

use std::path::Path;

pub use config::AdapterConfig;
pub(crate) use config::named_in_file;
pub use lora::{AdapterKind, Init, LoraConfig, Targets, TrainedBiases};

use super::atomic::write_atomic;
use super::safetensors::{OutTensor, SafeFile, write};
use crate::arch::tree::Tree;
use crate::{Error, Result};

/// Name of the configuration in an adapter folder.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the weights in an adapter folder.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What stands before every key of the weights file.
pub const PREFIX: &str = "base_model.model.";

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
    /// Reads the adapter in `folder` that is in PEFT's form; its tensors may be F32, F16 or BF16.
    pub(super) fn read_peft(folder: &Path) -> Result<Self> {
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

    /// The same for a model whose network stands in `tree`; names of older trees become those of this one.
    ///
    /// # Errors
    /// A tensor that is there under both names; `weights` is the file, for the message.
    pub(crate) fn in_tree(mut self, tree: &Tree, weights: &Path) -> Result<Self> {
        let rename = |name: &mut String| *name = tree.name(name).into_owned();
        if let Targets::Names(names) = &mut self.config.lora.targets {
            names.iter_mut().for_each(rename);
        }
        self.tensors.iter_mut().for_each(|tensor| rename(&mut tensor.name));
        self.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        match self.tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(twice) => {
                let problem = "stands twice, with the path of an older version too";
                Err(Error::tensor(weights, format!("{PREFIX}{}", twice[0].name), problem))
            }
            None => Ok(self),
        }
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
