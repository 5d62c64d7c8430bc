//! Adapter folders of MLX-LM, read as the PEFT adapters that compute the same.
//!
//! `adapters.safetensors` holds `MODULE.lora_a [in, r]` and `MODULE.lora_b [r, out]`, with DoRA also `MODULE.m [out]`;
//! `adapter_config.json` holds `lora_parameters: {rank, scale, dropout, keys}`. The layer computes
//! `y + scale (x lora_a) lora_b`, where scale is used as it stands (`mlx_lm/tuner/lora.py`): the PEFT form is both
//! matrices transposed and `lora_alpha = scale r`. DoRA's `m` and its norm are those of PEFT (`mlx_lm/tuner/dora.py`).
//! Only the last `num_layers` layers may have branches, so the targets are given as whole paths.

use std::path::Path;

use serde_json::Value;

use super::adapter::{AdapterConfig, AdapterFile, AdapterTensor, CONFIG_FILE, LoraConfig, Targets};
use super::safetensors::SafeFile;
use crate::{Error, Result};

/// Name of the weights in an adapter folder of MLX-LM.
pub const WEIGHTS_FILE: &str = "adapters.safetensors";

/// Whether the folder holds an adapter of MLX-LM.
pub fn is_adapter(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    has(WEIGHTS_FILE) && has(CONFIG_FILE) && !has(super::adapter::WEIGHTS_FILE)
}

/// Reads the adapter in `folder`.
pub fn read(folder: &Path) -> Result<AdapterFile> {
    let path = folder.join(CONFIG_FILE);
    let text = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let value = crate::json::in_file(&path, &text)?;
    let mut config = config(&path, &value)?;
    let path = folder.join(WEIGHTS_FILE);
    let file = SafeFile::open(&path)?;
    let mut tensors = Vec::new();
    let mut paths = Vec::new();
    for (key, _) in file.iter() {
        let (module, part) = key.rsplit_once('.').unwrap_or(("", key));
        if module.ends_with("embed_tokens") {
            return Err(Error::tensor(&path, key, "branches of the embedding are not supported")
                .with_hint("MLX-LM applies them to a tied output head too, which no PEFT adapter does"));
        }
        let (shape, values) = file.f32(key)?;
        let matrix = || match shape[..] {
            [rows, cols] => Ok((rows, cols)),
            _ => Err(Error::tensor(&path, key, format!("shape is {shape:?}, expected a matrix"))
                .with_hint("branches of stacked experts are not supported")),
        };
        tensors.push(match part {
            "lora_a" | "lora_b" => {
                let (rows, cols) = matrix()?;
                let rank = if part == "lora_a" { cols } else { rows };
                if rank != config.lora.rank {
                    let problem =
                        format!("shape is {shape:?}, `rank` in {CONFIG_FILE} is {}", config.lora.rank);
                    return Err(Error::tensor(&path, key, problem));
                }
                let other = format!("{module}.{}", if part == "lora_a" { "lora_b" } else { "lora_a" });
                if file.get(&other).is_none() {
                    return Err(Error::tensor(&path, key, format!("`{other}` is missing")));
                }
                if part == "lora_a" {
                    paths.push(module.to_string());
                }
                let name = if part == "lora_a" { "lora_A.weight" } else { "lora_B.weight" };
                let column = |c: usize| values[c..].iter().step_by(cols).copied();
                let turned = (0..cols).flat_map(column).collect();
                AdapterTensor { name: format!("{module}.{name}"), shape: vec![cols, rows], values: turned }
            }
            "m" if config.lora.dora && shape.len() == 1 => {
                AdapterTensor { name: format!("{module}.lora_magnitude_vector"), shape, values }
            }
            _ => return Err(Error::tensor(&path, key, "is not a part of a branch (lora_a, lora_b)")),
        });
    }
    if paths.is_empty() {
        return Err(Error::file(&path, "no branch is in it"));
    }
    config.lora.targets = Targets::Names(paths);
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(AdapterFile { config, tensors })
}

/// The PEFT configuration with the same maths; targets follow from the tensors.
fn config(path: &Path, value: &Value) -> Result<AdapterConfig> {
    let kind = value.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if !matches!(kind, "lora" | "dora") {
        return Err(Error::file(path, format!("`fine_tune_type`: `{kind}` is not an adapter (lora, dora)"))
            .with_hint(
                "the folder of a full fine-tuning holds changed weights; fuse it with mlx_lm.fuse first",
            ));
    }
    let parameters = value.get("lora_parameters").ok_or_else(|| {
        Error::file(path, "neither `peft_type` (PEFT) nor `lora_parameters` (MLX-LM) is in it")
    })?;
    let missing = |key: &str, kind: &str| {
        Error::file(path, format!("`lora_parameters.{key}` is missing or not {kind}"))
    };
    let number = |key: &str| parameters.get(key).and_then(Value::as_f64).filter(|n| n.is_finite());
    let rank = parameters.get("rank").and_then(Value::as_u64).filter(|r| *r > 0);
    let rank = rank.ok_or_else(|| missing("rank", "a rank"))? as usize;
    let scale = number("scale").ok_or_else(|| {
        missing("scale", "a number").with_hint("MLX-LM multiplies the branch by it; there is no safe default")
    })?;
    // The first versions computed `scale alpha / rank`; since then `alpha` is not read. Both agree when it is the rank.
    if let Some(alpha) = number("alpha").filter(|alpha| *alpha != rank as f64) {
        let problem = format!(
            "`lora_parameters` has `scale` {scale} and `alpha` {alpha}, which MLX-LM versions read differently"
        );
        return Err(Error::file(path, problem).with_hint(format!(
            "if the version that trained it multiplied by alpha / rank, set `scale` to {}; then remove `alpha`",
            scale * alpha / rank as f64
        )));
    }
    let dropout = number("dropout").unwrap_or(0.0);
    if !(0.0..1.0).contains(&dropout) {
        return Err(missing("dropout", "a probability"));
    }
    Ok(AdapterConfig {
        lora: LoraConfig {
            rank,
            alpha: scale * rank as f64,
            dropout,
            dora: kind == "dora",
            ..LoraConfig::default()
        },
        base_model_name_or_path: value.get("model").and_then(Value::as_str).map(str::to_string),
        ..AdapterConfig::default()
    })
}
