//! `plan`: memory and speed of every way to train a model on this machine, from shapes alone.

use std::path::Path;
use std::process::ExitCode;

use ferrotune::Result;
use ferrotune::base::BaseModel;
use ferrotune::checkpoint::Checkpoint;
use ferrotune::checkpoint::hub::{self, HubId};
use ferrotune::memory::{self, human};
use ferrotune::model::config::{ModelConfig, SUPPORTED};
use ferrotune::model::families::architecture;
use ferrotune::run_config::RunConfig;
use ferrotune::train::foresee::{Foreseen, Load, advise, foresee};
use serde_json::json;

use super::device;
use crate::args::{Args, PlanArgs};
use crate::environment::Environment;
use crate::report::Report;

pub fn run(args: &Args, a: &PlanArgs, report: &Report) -> Result<ExitCode> {
    let config = config(a)?;
    let dev = device(args, config.train.threads)?;
    let (checkpoint, load) = subject(args, &config, report)?;
    let all = foresee(&config, &checkpoint, &dev, load)?;
    let arch = architecture(checkpoint.config())?;
    let values = arch.linear_elements() + arch.vocab * arch.hidden * if arch.tied { 1 } else { 2 };
    let budget = config.train.memory.or_else(memory::available);
    let advised = advise(&all, values);
    if !report.json() {
        let there = budget.map_or("unknown".into(), human);
        report.output(&format!(
            "{}: {:.1} million values, {} layers; micro-batches of up to {} tokens; memory {there}\n",
            config.model.base,
            values as f64 / 1e6,
            arch.layers,
            load.tokens()
        ));
        report.output(&table(&all, advised.as_ref().map(|(i, _)| *i)));
        if let Some((i, why)) = &advised {
            report.output(&format!("* {}: {why}", all[*i].method));
            report.output(&parts(&all[*i]));
        }
    }
    let advice = advised.map(|(i, why)| json!({"way": all[i], "reason": why}));
    report.done(&json!({
        "model": config.model.base, "parameters": values, "micro_batch_tokens": load.tokens(),
        "budget_bytes": budget, "ways": all, "advice": advice,
    }));
    Ok(ExitCode::SUCCESS)
}

/// A run file, or the defaults for a model.
fn config(a: &PlanArgs) -> Result<RunConfig> {
    let mut overrides = a.set.clone();
    overrides.extend(a.memory.iter().map(|memory| format!("train.memory={memory}")));
    let path = Path::new(&a.run);
    let run_file = path.extension().is_some_and(|e| ["yaml", "yml", "toml", "json"].iter().any(|r| e == *r));
    if run_file {
        return RunConfig::load(path, &overrides);
    }
    overrides.insert(0, format!("model.base={}", json!(a.run)));
    RunConfig::from_overrides(&overrides)
}

/// The model, of which the configuration is enough, and the rows, if they can be read without a download.
fn subject(args: &Args, config: &RunConfig, report: &Report) -> Result<(Checkpoint, Load)> {
    let name = config.model.base.as_str();
    let path = Path::new(name);
    let environment = Environment::read(args.offline);
    let id = if path.exists() { None } else { HubId::parse(name) };
    let here = match &id {
        Some(id) => hub::cached(id, &environment.hub),
        None => Some(path.to_path_buf()),
    };
    let alone = |path: &Path| path.is_dir() && path.join("config.json").is_file() && !has_weights(path);
    if let Some(here) = here.filter(|path| !alone(path)) {
        let base = BaseModel::open(&here, name)?;
        let load = match config.data.train.is_empty() {
            true => Load::bound(config),
            false => Load::of(config, &base.checkpoint, base.prepare(config)?)?,
        };
        return Ok((base.checkpoint, load));
    }
    let file = match &id {
        Some(id) => {
            let fetched = hub::fetch_config(id, &environment.hub, &mut |progress| report.progress(&progress));
            report.end_bar();
            fetched?
        }
        None => path.join("config.json"),
    };
    let config_file = ModelConfig::read(&file, SUPPORTED)?;
    Ok((Checkpoint::of_config(config_file)?, Load::bound(config)))
}

fn has_weights(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|path| path.extension().is_some_and(|e| e == "safetensors"))
}

/// A line for each way to run.
fn table(all: &[Foreseen], advised: Option<usize>) -> String {
    let mut text = format!(
        "  {:<6} {:<10} {:<9} {:>9} {:>5}  {:>8}",
        "method", "activations", "base", "peak", "fits", "tokens/s"
    );
    for (i, f) in all.iter().enumerate() {
        text += &format!(
            "\n{} {:<6} {:<11} {:<9} {:>9} {:>5}  {:>8.0}",
            if advised == Some(i) { '*' } else { ' ' },
            f.method.to_string(),
            format!("{:?}", f.activations).to_lowercase(),
            if f.streamed { "streamed" } else { "in memory" },
            human(f.peak_bytes),
            if f.fits { "yes" } else { "no" },
            f.tokens_per_second
        );
    }
    text + "\n"
}

fn parts(f: &Foreseen) -> String {
    let p = &f.plan;
    let parts = [
        ("base", p.base),
        ("trainable", p.trainable),
        ("gradients", p.gradients),
        ("optimizer", p.optimizer),
        ("activations", p.activations),
        ("workspace", p.workspace),
        ("program", p.program),
    ];
    let parts: Vec<String> =
        parts.iter().map(|(name, bytes)| format!("{name} {}", human(*bytes as u64))).collect();
    format!("  {}", parts.join(", "))
}
