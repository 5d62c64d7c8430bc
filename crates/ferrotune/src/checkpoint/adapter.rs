//! A PEFT adapter folder: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Written so that PEFT of any version loads it: only the keys that have always been there, sorted. Read strictly:
//! every tensor is used exactly once, and a key of the configuration that changes the maths is either honoured or
//! refused by its name.

use std::collections::BTreeSet;
use std::path::Path;

use ferrotune_kernels::Device;
use serde_json::{Value, json};

use super::atomic::write_atomic;
use super::safetensors::{OutTensor, SafeFile, write};
use crate::lora::{Adapter, Init, LoraConfig, Targets};
use crate::model::Decoder;
use crate::{Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PREFIX: &str = "base_model.model.";

/// Keys that we read, or that do not change what a trained adapter computes.
const READ_OR_HARMLESS: &[&str] = &[
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "use_rslora",
];

/// Writes the adapter to `folder` as PEFT does; `base` is what the user called the base model.
pub fn save(folder: &Path, adapter: &Adapter, model: &Decoder, base: &str) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let tensors: Vec<(String, OutTensor<'_>)> = adapter
        .params
        .iter()
        .map(|(name, t)| (format!("{PREFIX}{name}"), OutTensor::f32(&t.shape(), t.f32())))
        .collect();
    write(&folder.join(WEIGHTS), &tensors)?;
    let c = &adapter.config;
    let targets = match &c.targets {
        Targets::Regex(pattern) => json!(pattern),
        _ => json!(adapter.target_modules(model)),
    };
    let alpha = if c.alpha.fract() == 0.0 { json!(c.alpha as i64) } else { json!(c.alpha) };
    let content = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": match c.init { Init::Kaiming => json!(true), Init::Gaussian => json!("gaussian") },
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": alpha,
        "lora_dropout": (c.dropout as f64 * 1e6).round() / 1e6,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": c.rank,
        "rank_pattern": {},
        "revision": null,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": c.rslora,
    });
    write_atomic(&folder.join(CONFIG), format!("{content:#}\n").as_bytes())
}

/// Whether the folder holds an adapter.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// The base model that an adapter folder names.
pub fn base_name(folder: &Path) -> Result<Option<String>> {
    Ok(config(folder)?["base_model_name_or_path"].as_str().map(str::to_string))
}

fn config(folder: &Path) -> Result<Value> {
    let path = folder.join(CONFIG);
    let text = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::file(folder, format!("no {CONFIG} in it"))
            .with_hint("give the folder of a PEFT LoRA adapter, such as a run folder of ferrotune"),
        _ => Error::io(&path, e),
    })?;
    let json: Value =
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("not valid JSON: {e}")))?;
    if json.is_object() { Ok(json) } else { Err(Error::file(&path, "not a JSON object")) }
}

/// Whether a value of an unknown key says that the feature is off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}

/// Reads an adapter for `model`; every tensor must fit one of its linears.
pub fn load(dev: &Device, folder: &Path, model: &Decoder) -> Result<Adapter> {
    let path = folder.join(CONFIG);
    let json = config(folder)?;
    let refuse = |key: &str, found: &Value, expected: &str| {
        Error::file(&path, format!("`{key}` is {found}, expected {expected}"))
    };
    if json["peft_type"] != "LORA" {
        return Err(refuse("peft_type", &json["peft_type"], "\"LORA\""));
    }
    for (key, value) in json.as_object().into_iter().flatten() {
        if !READ_OR_HARMLESS.contains(&key.as_str()) && !is_off(value) {
            return Err(refuse(
                key,
                value,
                "null: this feature changes the adapter's maths and is not supported",
            ));
        }
    }
    for (key, allowed) in [("bias", json!("none")), ("fan_in_fan_out", json!(false))] {
        if !json[key].is_null() && json[key] != allowed {
            return Err(refuse(key, &json[key], &allowed.to_string()));
        }
    }
    let rank = json["r"]
        .as_u64()
        .filter(|r| *r > 0)
        .ok_or_else(|| refuse("r", &json["r"], "a rank of 1 or more"))?;
    let number = |key: &str| json[key].as_f64().ok_or_else(|| refuse(key, &json[key], "a number"));
    let names = |list: &[Value]| list.iter().filter_map(Value::as_str).map(String::from).collect::<Vec<_>>();
    let targets = match &json["target_modules"] {
        Value::String(word) if word == "all-linear" => Targets::AllLinear,
        Value::String(pattern) => Targets::Regex(pattern.clone()),
        Value::Array(list) => Targets::Names(names(list)),
        other => return Err(refuse("target_modules", other, "a list of names or a pattern")),
    };
    let config = LoraConfig {
        rank: rank as usize,
        alpha: number("lora_alpha")?,
        dropout: json["lora_dropout"].as_f64().unwrap_or(0.0) as f32,
        rslora: json["use_rslora"].as_bool().unwrap_or(false),
        init: if json["init_lora_weights"] == "gaussian" { Init::Gaussian } else { Init::Kaiming },
        targets,
    };

    let file = SafeFile::open(&folder.join(WEIGHTS))?;
    let mut used = BTreeSet::new();
    let other_base = "the adapter belongs to another base model";
    let adapter = Adapter::build(model, config, |name, part, rows, cols, _| {
        let key = format!("{PREFIX}{name}.{part}.weight");
        let Some(tensor) = file.get(&key) else {
            return Err(Error::tensor(file.path(), &key, "missing").with_hint(other_base));
        };
        if tensor.shape != [rows, cols] {
            let problem = format!("shape is {:?}, the base model asks for {:?}", tensor.shape, [rows, cols]);
            return Err(Error::tensor(file.path(), &key, problem).with_hint(other_base));
        }
        let (_, values) = file.f32(&key)?;
        used.insert(key);
        Ok(dev.tensor(rows, cols, &values))
    })
    .map_err(|e| match e {
        Error::Config { problem, hint, .. } => Error::file(&path, format!("target_modules: {problem}"))
            .with_hint(hint.unwrap_or_else(|| other_base.into())),
        other => other,
    })?;
    if let Some((left, _)) = file.iter().find(|(name, _)| !used.contains(*name)) {
        return Err(Error::tensor(file.path(), left, "belongs to no targeted linear of the base model")
            .with_hint(other_base));
    }
    Ok(adapter)
}
