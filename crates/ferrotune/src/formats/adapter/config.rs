//! `adapter_config.json`.
//!
//! It is written with the keys that every PEFT since 0.6 knows, and others only when they are set: old readers refuse
//! keys that they do not know. Reading is the other way round: a key that we do not know is accepted only with a value
//! that changes nothing, and refused by name otherwise.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::lora::{AdapterKind, Init, LoraConfig, Targets};
use crate::options::{Key, fit, keys, read, schema_of};
use crate::{Error, Result};

/// `adapter_config.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// The options of the method.
    pub lora: LoraConfig,
    /// The base, as the user named it.
    pub base_model_name_or_path: Option<String>,
    /// Version of the base.
    pub revision: Option<String>,
    /// What the model does; `CAUSAL_LM`.
    pub task_type: Option<String>,
}

impl Default for AdapterConfig {
    /// PEFT's defaults.
    fn default() -> Self {
        AdapterConfig {
            lora: LoraConfig { rank: 8, alpha: 8.0, ..LoraConfig::default() },
            base_model_name_or_path: None,
            revision: None,
            task_type: Some(CAUSAL_LM.into()),
        }
    }
}

const CAUSAL_LM: &str = "CAUSAL_LM";

/// The keys of the file beside those of [`LoraConfig`].
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Rest {
    base_model_name_or_path: Option<String>,
    revision: Option<String>,
    task_type: Option<String>,
    auto_mapping: Option<Value>,
    fan_in_fan_out: bool,
    inference_mode: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    loftq_config: Option<LoftqConfig>,
    /// Keys of methods that are not computed here.
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// What PEFT says of LoftQ; without it an empty object.
#[derive(Serialize, Deserialize)]
struct LoftqConfig {
    loftq_bits: Option<u64>,
    loftq_iter: Option<usize>,
}

impl LoftqConfig {
    fn iterations(&self, path: &Path) -> Result<usize> {
        match self.loftq_bits {
            None | Some(4) => Ok(self.loftq_iter.unwrap_or(1)),
            Some(bits) => {
                Err(Error::file(path, format!("`loftq_config`: {bits} bits are not supported, expected 4")))
            }
        }
    }
}

/// Keys that say nothing about what the trained adapter computes.
const IRRELEVANT: &[&str] = &[
    "peft_version",
    "runtime_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "megatron_core",
    "qalora_group_size",
];

impl AdapterConfig {
    /// Interprets the content of an `adapter_config.json`; `path` is for messages.
    pub fn from_json(path: &Path, value: &Value) -> Result<Self> {
        let object = value.as_object().ok_or_else(|| Error::file(path, "not a JSON object"))?;
        let found = object.get("peft_type").unwrap_or(&Value::Null);
        let known: Vec<Value> = AdapterKind::ALL.iter().map(|kind| peft_type(kind.as_str())).collect();
        if !known.contains(found) {
            let known: Vec<String> = known.iter().map(Value::to_string).collect();
            let problem = format!("`peft_type`: {found} is not supported ({})", known.join(", "));
            return Err(Error::file(path, problem));
        }
        let keys = keys::<LoraConfig>();
        let defaults = AdapterConfig::default().lora;
        let none = Targets::Names(Vec::new());
        let mut lora = json!({"rank": defaults.rank, "alpha": defaults.alpha, "targets": none});
        let mut rest = Map::new();
        // Null is as good as absent.
        for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
            match keys.iter().find(|key| key.peft_name() == Some(name)) {
                Some(key) => lora[&key.path] = own_form(name, value.clone(), path)?,
                None => _ = rest.insert(name.clone(), value.clone()),
            }
        }
        let lora = fit(&schema_of::<LoraConfig>(), lora, "").map_err(|e| named_in_file(e, path))?;
        let rest: Rest = read(rest.into()).map_err(|e| named_in_file(e, path))?;
        let unknown =
            |(key, value): &(&String, &Value)| !IRRELEVANT.contains(&key.as_str()) && !changes_nothing(value);
        if let Some((key, value)) = rest.others.iter().find(unknown) {
            return Err(unsupported(path, key, value));
        }
        if let Some(task) = rest.task_type.as_deref().filter(|task| !matches!(*task, CAUSAL_LM | "" | "none"))
        {
            return Err(unsupported(path, "task_type", &task.into()));
        }
        let mut lora: LoraConfig = read(lora).map_err(|e| named_in_file(e, path))?;
        if let Some(loftq) = rest.loftq_config.filter(|_| lora.init == Init::Loftq) {
            lora.loftq_iterations = loftq.iterations(path)?;
        }
        Ok(AdapterConfig {
            lora,
            base_model_name_or_path: rest.base_model_name_or_path,
            revision: rest.revision,
            task_type: rest.task_type,
        })
    }

    /// The content of `adapter_config.json`: top-level keys sorted as PEFT sorts them.
    ///
    /// Patterns keep their order, since the first one that matches counts.
    pub(crate) fn to_json(&self) -> Value {
        let rest = Rest {
            base_model_name_or_path: self.base_model_name_or_path.clone(),
            revision: self.revision.clone(),
            task_type: self.task_type.clone(),
            inference_mode: true,
            loftq_config: (self.lora.init == Init::Loftq)
                .then_some(LoftqConfig { loftq_bits: Some(4), loftq_iter: Some(self.lora.loftq_iterations) }),
            ..Rest::default()
        };
        let tree = |lora: &LoraConfig| serde_json::to_value(lora).unwrap_or_default();
        let (own, defaults) = (tree(&self.lora), tree(&LoraConfig::default()));
        let mut all: BTreeMap<String, Value> =
            serde_json::from_value(serde_json::to_value(rest).unwrap_or_default()).unwrap_or_default();
        for key in keys::<LoraConfig>() {
            let (Some(name), value) = (key.peft_name(), &own[&key.path]) else { continue };
            if *value != defaults[&key.path] || !key.is_late_in_peft() {
                all.insert(name.to_string(), peft_form(name, value.clone()));
            }
        }
        all.into_iter().collect::<Map<_, _>>().into()
    }
}

/// The value of a key of the file as [`LoraConfig`] has it.
fn own_form(name: &str, value: Value, path: &Path) -> Result<Value> {
    match (name, value) {
        ("init_lora_weights", value) => init(value, path),
        ("peft_type", Value::String(kind)) => Ok(kind.to_ascii_lowercase().into()),
        ("target_modules" | "exclude_modules", Value::Array(mut names)) => {
            // A set, which PEFT writes in any order.
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            Ok(names.into())
        }
        // A list, or one under the embedding's name.
        ("trainable_token_indices", Value::Object(map)) => match map.iter().collect::<Vec<_>>()[..] {
            [(name, ids)] if name.ends_with("embed_tokens") => Ok(ids.clone()),
            _ => Err(Error::file(
                path,
                format!("`{name}`: {} is not a list of ids of `embed_tokens`", Value::from(map)),
            )),
        },
        ("layers_to_transform", Value::Array(layers)) if layers.is_empty() => Ok(Value::Null),
        (_, value) => Ok(value),
    }
}

/// The word of a kind as PEFT has it.
fn peft_type(word: &str) -> Value {
    word.to_ascii_uppercase().into()
}

/// The value of an option as PEFT has it.
fn peft_form(name: &str, value: Value) -> Value {
    let number = |value: &Value| match value.as_f64() {
        Some(n) if n.fract() == 0.0 && n.abs() < 1e15 => Value::from(n as i64),
        _ => value.clone(),
    };
    match (name, value) {
        ("init_lora_weights", word) if word == Init::Kaiming.as_str() => true.into(),
        ("peft_type", Value::String(kind)) => peft_type(&kind),
        ("lora_alpha", alpha) => number(&alpha),
        ("alpha_pattern", Value::Object(alphas)) => {
            alphas.into_iter().map(|(key, alpha)| (key, number(&alpha))).collect::<Map<_, _>>().into()
        }
        ("target_modules" | "exclude_modules", Value::Array(mut names)) => {
            names.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            names.into()
        }
        (_, Value::Array(list)) if list.is_empty() => Value::Null,
        (_, value) => value,
    }
}

/// How the adapter began. That matters for what it computes only if the frozen weights were changed, and then the change
/// must be one that can be made again from the weights alone.
fn init(value: Value, path: &Path) -> Result<Value> {
    let word = match &value {
        Value::Bool(_) => return Ok(Init::Kaiming.as_str().into()),
        Value::String(word) => word.to_ascii_lowercase(),
        other => return Err(Error::file(path, format!("`init_lora_weights`: {other} is not supported"))),
    };
    match word.as_str() {
        "true" | "false" | "eva" | "orthogonal" | "mica" => Ok(Init::Kaiming.as_str().into()),
        "gaussian" | "pissa" | "olora" | "loftq" => Ok(word.into()),
        other => {
            let problem = format!(
                "`init_lora_weights`: \"{other}\" changed the base weights in a way that cannot be repeated"
            );
            Err(Error::file(path, problem).with_hint(
                "save it with PEFT's `path_initial_model_for_weight_conversion`, which makes it a plain LoRA",
            ))
        }
    }
}

/// An error about an option of an adapter as one about the key of the file at `path`.
pub(crate) fn named_in_file(error: Error, path: &Path) -> Error {
    let Error::Config { key, problem, hint } = error else { return error };
    let (own, rest) = key.split_once('.').map_or((key.as_str(), None), |(own, rest)| (own, Some(rest)));
    let keys = keys::<LoraConfig>();
    let name = keys.iter().find(|key| key.path == own).and_then(Key::peft_name).unwrap_or(own);
    let name = rest.map_or(name.to_string(), |rest| format!("{name}.{rest}"));
    let error = Error::file(path, format!("`{name}`: {problem}"));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn unsupported(path: &Path, key: &str, value: &Value) -> Error {
    Error::file(path, format!("`{key}`: {value} is not supported")).with_hint(
        "this adapter uses a method that ferrotune does not compute; it would be wrong to ignore it",
    )
}

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
