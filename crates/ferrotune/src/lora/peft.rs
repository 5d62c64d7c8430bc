//! An [`Adapter`] to and from PEFT's folder: what of the file's features we compute, and the check that every tensor
//! of the file belongs to a linear of the base.

use std::collections::BTreeSet;
use std::path::Path;

use ferrotune_kernels::Device;

use super::layout::{Slot, whole};
use super::targets::matches;
use super::{Adapter, LoraConfig, Targets};
use crate::formats::adapter::{AdapterConfig, AdapterFile, AdapterTensor, CONFIG_FILE, named_in_file};
use crate::formats::adapter_folder::weights_path;
use crate::model::Decoder;
use crate::model::parts::Base;
use crate::{Error, Result};

const OTHER_BASE: &str =
    "the adapter was trained on another base model; give the base that its adapter_config.json names";

const HALF: &str =
    "the weights and the adapter_config.json beside them do not belong together, or the file is not whole";

/// Whether the folder holds an adapter.
pub fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG_FILE).is_file()
}

/// Writes the adapter so that PEFT loads it; `base` is what the user called the base model.
pub fn save(folder: &Path, adapter: &Adapter, model: &Decoder, base: &str) -> Result<()> {
    let config = stored(adapter, model, base);
    let tensors = adapter.tensors(&|id| adapter.params.get(id)).into_iter();
    let mut tensors: Vec<AdapterTensor> =
        tensors.map(|(name, shape, values)| AdapterTensor { name, shape, values }).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    AdapterFile { config, tensors }.write(folder)
}

/// The constants as PEFT stores them.
fn stored(adapter: &Adapter, model: &Decoder, base: &str) -> AdapterConfig {
    AdapterConfig {
        lora: LoraConfig { targets: adapter.target_modules(model), ..adapter.config.clone() },
        base_model_name_or_path: Some(base.to_string()),
        ..AdapterConfig::default()
    }
}

/// An error about the constants of an adapter, which are keys of a file in its folder.
pub(crate) fn in_folder(error: Error, folder: &Path) -> Error {
    let own_hint = matches!(&error, Error::Config { hint: Some(_), .. });
    match named_in_file(error, &folder.join(CONFIG_FILE)) {
        error @ Error::File { .. } if !own_hint => error.with_hint(OTHER_BASE),
        error => error,
    }
}

/// The constants of the adapter in a folder.
pub fn config(folder: &Path) -> Result<LoraConfig> {
    with_targets(AdapterFile::read(folder)?.config.lora, folder)
}

/// Refuses constants that choose no module.
fn with_targets(config: LoraConfig, folder: &Path) -> Result<LoraConfig> {
    if config.targets == Targets::Names(Vec::new()) && config.target_parameters.is_empty() {
        return Err(Error::file(folder.join(CONFIG_FILE), "`target_modules` is missing"));
    }
    Ok(config)
}

/// Reads an adapter for `model`; every tensor must belong to it.
pub fn load(dev: &Device, folder: &Path, model: &Decoder) -> Result<Adapter> {
    if !is_adapter(folder) {
        return Err(Error::file(folder, format!("no {CONFIG_FILE} in it"))
            .with_hint("give the folder of a PEFT LoRA adapter, such as a run folder of ferrotune"));
    }
    let weights = weights_path(folder);
    let file = AdapterFile::read(folder)?.in_tree(model.arch.tree, &weights)?;
    let config = present(with_targets(file.config.lora.clone(), folder)?, model);
    let key = |name: &str| format!("{}{name}", crate::formats::adapter::PREFIX);
    let mut used = BTreeSet::new();
    let mut make = |slot: &Slot<'_>| {
        // Some versions name the bias of a targeted linear as the base does.
        let plain = slot.name.replace(".base_layer.", ".");
        let Some(tensor) = file.get(&slot.name).or_else(|| file.get(&plain)) else {
            let problem = format!("missing, asked for by {} in {CONFIG_FILE}", slot.asked_by());
            return Err(Error::tensor(&weights, key(&slot.name), problem).with_hint(HALF));
        };
        if tensor.shape != slot.shape() {
            let problem = format!(
                "shape is {:?}, the base model and {CONFIG_FILE} ask for {:?}",
                tensor.shape,
                slot.shape()
            );
            return Err(Error::tensor(&weights, key(&tensor.name), problem).with_hint(OTHER_BASE));
        }
        used.insert(tensor.name.clone());
        Ok(dev.tensor(slot.rows, slot.cols, &tensor.values))
    };
    let adapter = Adapter::build(dev, model, config, &mut make).map_err(|e| in_folder(e, folder))?;
    for left in file.tensors.iter().filter(|t| !used.contains(&t.name)) {
        let (problem, hint) = match frozen_copy(model, left) {
            Some(true) => continue,
            Some(false) => (
                "is a frozen table that was saved beside the branches, and not the base model's",
                "the adapter was trained on another base model, or on one with a changed vocabulary: give that base",
            ),
            None if model.arch.tree.carries(&left.name) => (
                "belongs to no part of the text model, which alone is known here",
                "train the adapter with target_modules that match the text model alone",
            ),
            None if in_model(model, &left.name) => ("belongs to no targeted module of the base model", HALF),
            None => ("belongs to no module of the base model", OTHER_BASE),
        };
        return Err(Error::tensor(&weights, key(&left.name), problem).with_hint(hint));
    }
    Ok(adapter)
}

/// The constants without names of modules that the model does not have. PEFT passes over them as long as others are there:
/// configurations name the modules of several architectures. What their tensors belong to is checked one by one.
pub(crate) fn present(mut config: LoraConfig, model: &Decoder) -> LoraConfig {
    let mut modules: Vec<&str> = model.targets().iter().map(|l| l.name.as_str()).collect();
    modules.push(model.arch.tree.embedding);
    if let Targets::Names(names) = &mut config.targets
        && modules.iter().any(|m| names.iter().any(|name| matches(m, name)))
    {
        names.retain(|name| modules.iter().any(|m| matches(m, name)));
    }
    modules.extend(model.norms().iter().map(|n| n.name.as_str()));
    let has = |name: &str| modules.iter().any(|m| whole(m, std::slice::from_ref(&name.to_string())));
    config.modules_to_save.retain(|name| has(name));
    config
}

/// Whether a tensor of an adapter is of a module that the model has.
fn in_model(model: &Decoder, tensor: &str) -> bool {
    let targets = model.targets();
    let names =
        targets.iter().map(|l| l.name.as_str()).chain(model.norms().into_iter().map(|n| n.name.as_str()));
    let mut names = names.chain([model.arch.tree.embedding]);
    names.any(|m| tensor.strip_prefix(m).is_some_and(|rest| rest.starts_with('.')))
}

/// PEFT stores the frozen weight of an embedding and a head too where they are targeted or the vocabulary was changed.
/// Whether it is one, and then whether it is the model's own, up to the rounding of 16-bit floats or of the base's form.
fn frozen_copy(model: &Decoder, tensor: &AdapterTensor) -> Option<bool> {
    let module = tensor.name.strip_suffix(".weight")?;
    let module = module.strip_suffix(".base_layer").unwrap_or(module);
    let base = match module {
        table if table == model.arch.tree.embedding => &model.embed,
        head if head == model.head().name => &model.head().base,
        _ => return None,
    };
    let Base::Frozen(weight) = base else { return Some(false) };
    if tensor.shape != [weight.rows(), weight.cols()] {
        return Some(false);
    }
    let mut own = vec![0.0; tensor.values.len()];
    weight.decode_flat(0, &mut own);
    // A table that is held in 4 or 8 bits is off by up to a step between two of its values.
    let exact = weight.dtype().is_some();
    let rows = own.chunks_exact(weight.cols()).zip(tensor.values.chunks_exact(weight.cols()));
    let same = |(own, theirs): (&[f32], &[f32])| {
        let step = if exact { 0.0 } else { 0.15 * own.iter().fold(0.0f32, |m, v| m.max(v.abs())) };
        own.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= step + 0.01 * a.abs().max(b.abs()))
    };
    Some(rows.into_iter().all(same))
}
