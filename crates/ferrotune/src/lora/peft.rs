//! An [`Adapter`] to and from PEFT's folder: what of the file's features we compute, and the check that every tensor
//! of the file belongs to a linear of the base.

use std::collections::BTreeSet;
use std::path::Path;

use ferrotune_kernels::Device;
use serde_json::Value;

use super::{Adapter, Init, LoraConfig, Targets};
use crate::checkpoint::adapter::{
    AdapterConfig, AdapterFile, AdapterTensor, CONFIG_FILE, Modules, weights_path,
};
use crate::model::Decoder;
use crate::{Error, Result};

const OTHER_BASE: &str =
    "the adapter was trained on another base model; give the base that its adapter_config.json names";

/// Whether the folder holds an adapter.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
}

/// Writes the adapter so that PEFT loads it; `base` is what the user called the base model.
pub fn save(folder: &Path, adapter: &Adapter, model: &Decoder, base: &str) -> Result<()> {
    let c = &adapter.config;
    let config = AdapterConfig {
        r: c.rank,
        lora_alpha: c.alpha,
        // f32 to f64 without the digits that f32 never had.
        lora_dropout: c.dropout.to_string().parse().unwrap_or(0.0),
        use_rslora: c.rslora,
        target_modules: Some(match &c.targets {
            Targets::Regex(pattern) => Modules::Pattern(pattern.clone()),
            Targets::AllLinear | Targets::Names(_) => Modules::Names(adapter.target_modules(model)),
        }),
        init_lora_weights: match c.init {
            Init::Kaiming => Value::Bool(true),
            Init::Gaussian => "gaussian".into(),
        },
        base_model_name_or_path: Some(base.to_string()),
        ..AdapterConfig::default()
    };
    let tensor = |(name, t): (&str, &ferrotune_kernels::Tensor)| AdapterTensor {
        name: name.to_string(),
        shape: t.shape().to_vec(),
        values: t.f32().to_vec(),
    };
    let mut tensors: Vec<AdapterTensor> = adapter.params.iter().map(tensor).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    AdapterFile { config, tensors }.write(folder)
}

/// Reads an adapter for `model`; every tensor must fit one of its linears.
pub fn load(dev: &Device, folder: &Path, model: &Decoder) -> Result<Adapter> {
    if !is_adapter(folder) {
        return Err(Error::file(folder, format!("no {CONFIG_FILE} in it"))
            .with_hint("give the folder of a PEFT LoRA adapter, such as a run folder of ferrotune"));
    }
    let file = AdapterFile::read(folder)?;
    let config_path = folder.join(CONFIG_FILE);
    let config = computed(&file.config, &config_path)?;
    let weights = weights_path(folder);
    let key = |name: &str| format!("{}{name}", crate::checkpoint::adapter::PREFIX);
    let mut used = BTreeSet::new();
    let adapter = Adapter::build(model, config, |module, part, rows, cols, _| {
        let name = format!("{module}.{part}.weight");
        let Some(tensor) = file.get(&name) else {
            return Err(Error::tensor(&weights, key(&name), "missing").with_hint(OTHER_BASE));
        };
        if tensor.shape != [rows, cols] {
            let problem = format!("shape is {:?}, the base model asks for {:?}", tensor.shape, [rows, cols]);
            return Err(Error::tensor(&weights, key(&name), problem).with_hint(OTHER_BASE));
        }
        used.insert(name);
        Ok(dev.tensor(rows, cols, &tensor.values))
    })
    .map_err(|e| match e {
        Error::Config { problem, hint, .. } => {
            Error::file(&config_path, format!("`target_modules`: {problem}"))
                .with_hint(hint.unwrap_or_else(|| OTHER_BASE.into()))
        }
        other => other,
    })?;
    if let Some(left) = file.tensors.iter().find(|t| !used.contains(&t.name)) {
        let problem = "belongs to no targeted linear of the base model";
        return Err(Error::tensor(&weights, key(&left.name), problem).with_hint(OTHER_BASE));
    }
    Ok(adapter)
}

/// The constants of an adapter whose features we compute; the others are refused by the name of their key.
fn computed(c: &AdapterConfig, path: &Path) -> Result<LoraConfig> {
    let features = [
        ("use_dora", c.use_dora),
        ("lora_bias", c.lora_bias),
        ("bias", c.bias != "none"),
        ("exclude_modules", c.exclude_modules.is_some()),
        ("layers_to_transform", c.layers_to_transform.is_some()),
        ("rank_pattern", !c.rank_pattern.is_empty()),
        ("alpha_pattern", !c.alpha_pattern.is_empty()),
        ("modules_to_save", c.modules_to_save.as_ref().is_some_and(|m| !m.is_empty())),
        ("trainable_token_indices", c.trainable_token_indices.is_some()),
        ("init_lora_weights", c.changes_base()),
    ];
    if let Some((key, _)) = features.into_iter().find(|(_, used)| *used) {
        return Err(Error::file(path, format!("`{key}` is set, and this feature is not supported yet"))
            .with_hint("without it the adapter would compute something else, so it is not ignored"));
    }
    let targets = match &c.target_modules {
        Some(Modules::Pattern(word)) if word == "all-linear" => Targets::AllLinear,
        Some(Modules::Pattern(pattern)) => Targets::Regex(pattern.clone()),
        Some(Modules::Names(names)) => Targets::Names(names.clone()),
        None => return Err(Error::file(path, "`target_modules` is missing")),
    };
    Ok(LoraConfig {
        rank: c.r,
        alpha: c.lora_alpha,
        dropout: c.lora_dropout as f32,
        rslora: c.use_rslora,
        init: if c.init_lora_weights == "gaussian" { Init::Gaussian } else { Init::Kaiming },
        targets,
    })
}
