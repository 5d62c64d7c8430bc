//! `plan`: memory and speed of every way to train a model on this machine, from shapes alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ferrotune::Result;
use ferrotune::arch::families::{architecture, read_config};
use ferrotune::fetch::hub;
use ferrotune::fetch::hub::HubId;
use ferrotune::formats::Checkpoint;
use ferrotune::memory;
use ferrotune::model::Policies;
use ferrotune::plan::advise::{Estimate, Load, advise, estimate};
use ferrotune::run_config::{ModelOptions, RunConfig};
use ferrotune::units::human;
use ferrotune_kernels::Threads;
use serde_json::json;

use super::{data_sets, device, open_base, run_file};
use crate::args::{Args, PlanArgs};
use crate::environment::Environment;
use crate::report::Report;

pub fn run(args: &Args, a: &PlanArgs, report: &Report) -> Result<ExitCode> {
    let config = config(a, report)?;
    let dev = device(args, config.train.threads)?;
    let (checkpoint, load) = subject(args, &config, &dev.threads(), report)?;
    let all = estimate(&config, &checkpoint, &dev, load)?;
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
            report.output(&format!("  {}", all[*i].plan.describe()));
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
fn config(a: &PlanArgs, report: &Report) -> Result<RunConfig> {
    let overrides = a.overrides.list();
    let path = Path::new(&a.run);
    if run_file::is_one(path) {
        return run_file::load(path, &overrides, report);
    }
    let model = ModelOptions { base: a.run.clone(), ..ModelOptions::default() };
    run_file::at_home(RunConfig { model, ..RunConfig::default() }.with(&overrides)?)
}

/// The model, of which the configuration is enough, and the rows, if the model is here.
fn subject(
    args: &Args,
    config: &RunConfig,
    threads: &Threads,
    report: &Report,
) -> Result<(Checkpoint, Load)> {
    if let Some(file) = configuration(args, &config.model.base, report)? {
        return Ok((Checkpoint::from_config(read_config(&file)?)?, Load::bound(config)));
    }
    let base = open_base(args, &config.model.base, report)?;
    let load = match config.data.is_empty() {
        true => Load::bound(config),
        false => {
            let located = data_sets::locate(args, config, report)?;
            Load::from_rows(config, &base.checkpoint, base.prepare(threads, &located.config)?)?
        }
    };
    Ok((base.checkpoint, load))
}

/// The `config.json` of a model whose weights are not here.
fn configuration(args: &Args, name: &str, report: &Report) -> Result<Option<PathBuf>> {
    let path = Path::new(name);
    if path.exists() {
        let file = path.join("config.json");
        return Ok((file.is_file() && !has_weights(path)).then_some(file));
    }
    let settings = Environment::read(args.offline).hub;
    let Some(id) = HubId::parse(name).filter(|id| hub::cached(id, &settings).is_none()) else {
        return Ok(None);
    };
    let fetched = hub::fetch_config(&id, &settings, &mut |progress| report.progress(&progress));
    report.end_bar();
    fetched.map(Some)
}

fn has_weights(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|e| e.path()).any(|path| path.extension().is_some_and(|e| e == "safetensors"))
}

/// A line for each way to run.
fn table(all: &[Estimate], advised: Option<usize>) -> String {
    let mut text = format!(
        "  {:<6} {:<19} {:<9} {:>9} {:>5}  {:>8}",
        "method", "activations", "base", "peak", "fits", "tokens/s"
    );
    for (i, f) in all.iter().enumerate() {
        text += &format!(
            "\n{} {:<6} {:<19} {:<9} {:>9} {:>5}  {:>8.0}",
            if advised == Some(i) { '*' } else { ' ' },
            f.method.to_string(),
            Policies { below: f.activations, kept: f.kept_layers }.to_string(),
            if f.streamed { "streamed" } else { "in memory" },
            human(f.peak_bytes),
            if f.fits { "yes" } else { "no" },
            f.tokens_per_second
        );
    }
    text + "\n"
}
