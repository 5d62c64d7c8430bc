//! The adapter that a run begins with: its constants are those of its folder.
//!
//! An adapter keeps the rank, the scale and the modules that it was made with. What the run file states otherwise is
//! refused, and what it leaves open is filled in, so that the written run file says what was trained.

use std::path::Path;

use ferrotune_kernels::Device;
use serde_json::Value;

use super::shapes;
use crate::formats::Checkpoint;
use crate::lora::{LoraConfig, Targets, peft};
use crate::model::Decoder;
use crate::run_config::{MethodKind, MethodOptions, RunConfig};
use crate::{Error, Result};

/// The constants of the adapter that a run trains, if it trains one: those of the folder that the run file names to begin
/// with, or its own.
pub fn lora(config: &RunConfig, base: &Checkpoint) -> Result<Option<LoraConfig>> {
    if config.method.kind == MethodKind::Full {
        return Ok(None);
    }
    let Some(folder) = &config.train.init_adapter else { return Ok(Some(config.method.lora.clone())) };
    let model = shapes(&Device::reference(), base)?;
    let found = peft::present(peft::config(Path::new(folder))?, &model);
    check(config, &found, folder, &model)?;
    Ok(Some(found))
}

/// Fills in what the run file leaves open of an adapter that the run begins with.
pub fn adopt(config: &mut RunConfig, base: &Checkpoint) -> Result<()> {
    if config.train.init_adapter.is_none() {
        return Ok(());
    }
    if config.method.kind == MethodKind::Full {
        let problem = "it has no place in a run with method.kind: full, which trains no adapter";
        return Err(Error::config("train.init_adapter", problem)
            .with_hint("merge the adapter first and train the merged folder, or use another method.kind"));
    }
    if let Some(found) = lora(config, base)? {
        // Another way to say the same stays as the user said it.
        let targets = config.states("targets").then(|| config.method.lora.targets.clone());
        config.method.lora = LoraConfig { targets: targets.unwrap_or(found.targets.clone()), ..found };
        config.validate()?;
    }
    Ok(())
}

/// Refuses a constant that the run file states otherwise.
fn check(config: &RunConfig, found: &LoraConfig, folder: &str, model: &Decoder) -> Result<()> {
    let tree = |method: &MethodOptions| serde_json::to_value(method).unwrap_or_default();
    let adapter = MethodOptions { lora: found.clone(), ..config.method.clone() };
    let (stated, adapter) = (tree(&config.method), tree(&adapter));
    for key in &config.stated {
        let (ours, theirs) = (&stated[key], &adapter[key]);
        if sorted(ours) == sorted(theirs) {
            continue;
        }
        if key == "targets" && same_modules(&config.method.lora.targets, &found.targets, model) {
            continue;
        }
        let text = |value: &Value| match value.to_string() {
            nothing if matches!(nothing.as_str(), "null" | "[]" | "{}") => "none".to_string(),
            some => some,
        };
        let key = format!("method.{key}");
        let problem = format!("found {}, the adapter in {folder} has {}", text(ours), text(theirs));
        return Err(Error::config(&key, problem).with_hint(format!(
            "an adapter that a run begins with (train.init_adapter) keeps its constants: leave {key} out, or begin without it"
        )));
    }
    Ok(())
}

/// Lists are sets here: of names, layers, tokens.
fn sorted(value: &Value) -> Value {
    let Value::Array(list) = value else { return value.clone() };
    let mut list = list.clone();
    list.sort_by_key(Value::to_string);
    list.into()
}

/// Whether two choices of targets are the same modules of the model.
fn same_modules(ours: &Targets, theirs: &Targets, model: &Decoder) -> bool {
    let mut names: Vec<&str> = model.targets().iter().map(|l| l.name.as_str()).collect();
    names.push(model.arch.tree.embedding);
    match (ours.select(&names), theirs.select(&names)) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => false,
    }
}
