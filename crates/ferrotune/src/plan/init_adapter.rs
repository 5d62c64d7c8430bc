//! The adapter that a run begins with: its constants are those of its folder.
//!
//! An adapter keeps the rank, the scale and the modules that it was made with. What the run file states otherwise is
//! refused, and what it leaves open is filled in, so that the written run file says what was trained.

use std::path::Path;

use ferrotune_kernels::Device;
use serde_json::Value;

use super::form::lora_config;
use super::shapes;
use crate::formats::Checkpoint;
use crate::lora::{Init, LoraConfig, Targets, TrainedBiases, peft};
use crate::model::Decoder;
use crate::model::embedding::EMBEDDING;
use crate::run_config::{BiasKind, LoraInit, MethodKind, MethodOptions, RunConfig};
use crate::{Error, Result};

/// The constants of the adapter that a run trains, if it trains one: those of the folder that the run file names to begin
/// with, or its own.
pub fn lora(config: &RunConfig, base: &Checkpoint) -> Result<Option<LoraConfig>> {
    if config.method.kind == MethodKind::Full {
        return Ok(None);
    }
    let Some(folder) = &config.train.init_adapter else { return Ok(Some(lora_config(&config.method))) };
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
        let targets = config.method.targets.clone();
        config.method = filled(&config.method, &found);
        // Another way to say the same stays as the user said it.
        if config.states("targets") {
            config.method.targets = targets;
        }
        config.validate()?;
    }
    Ok(())
}

/// Refuses a constant that the run file states otherwise.
fn check(config: &RunConfig, found: &LoraConfig, folder: &str, model: &Decoder) -> Result<()> {
    let tree = |method: &MethodOptions| serde_json::to_value(method).unwrap_or_default();
    let (stated, adapter) = (tree(&config.method), tree(&filled(&config.method, found)));
    for key in config.stated_method() {
        let (ours, theirs) = (&stated[key], &adapter[key]);
        if sorted(ours) == sorted(theirs) {
            continue;
        }
        if key == "targets" && same_modules(&config.method.targets, &found.targets, model) {
            continue;
        }
        let text = |value: &Value| if value.is_null() { "none".to_string() } else { value.to_string() };
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
    names.push(EMBEDDING);
    match (ours.select(&names), theirs.select(&names)) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => false,
    }
}

/// The options with an adapter's constants.
fn filled(method: &MethodOptions, found: &LoraConfig) -> MethodOptions {
    MethodOptions {
        rank: found.rank,
        alpha: found.alpha,
        // f32 to f64 without the digits that f32 never had.
        dropout: found.dropout.to_string().parse().unwrap_or_default(),
        rslora: found.rslora,
        init: match found.init {
            Init::Kaiming => LoraInit::Kaiming,
            Init::Gaussian => LoraInit::Gaussian,
            Init::Pissa => LoraInit::Pissa,
            Init::Olora => LoraInit::Olora,
            Init::Loftq { .. } => LoraInit::Loftq,
        },
        loftq_iterations: match found.init {
            Init::Loftq { iterations } => iterations,
            _ => 1,
        },
        dora: found.dora,
        lora_bias: found.lora_bias,
        bias: match found.bias {
            TrainedBiases::None => BiasKind::None,
            TrainedBiases::All => BiasKind::All,
            TrainedBiases::LoraOnly => BiasKind::LoraOnly,
        },
        targets: found.targets.clone(),
        exclude: found.exclude.clone(),
        layers_to_transform: found.layers.clone(),
        layers_pattern: found.layers_pattern.clone(),
        rank_pattern: found.rank_pattern.clone(),
        alpha_pattern: found.alpha_pattern.clone(),
        target_parameters: found.target_parameters.clone(),
        modules_to_save: found.modules_to_save.clone(),
        trainable_tokens: found.trainable_tokens.clone(),
        ..method.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_gives_the_adapters_constants() {
        let found = LoraConfig {
            rank: 3,
            alpha: 5.0,
            dropout: 0.1,
            dora: true,
            init: Init::Loftq { iterations: 4 },
            bias: TrainedBiases::LoraOnly,
            targets: Targets::Names(vec!["q_proj".into()]),
            exclude: Some(Targets::Regex("x".into())),
            layers: Some(vec![1]),
            layers_pattern: vec!["layers".into()],
            rank_pattern: vec![("q_proj".into(), 2)],
            alpha_pattern: vec![("q_proj".into(), 2.0)],
            modules_to_save: vec!["norm".into()],
            trainable_tokens: vec![7],
            target_parameters: vec!["experts.down_proj".into()],
            rslora: true,
            lora_bias: true,
        };
        assert_eq!(lora_config(&filled(&MethodOptions::default(), &found)), found);
    }
}
