//! `train`: a run file becomes a run folder.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrotune::base::BaseModel;
use ferrotune::checkpoint::outputs;
use ferrotune::checkpoint::run_folder::RunFolder;
use ferrotune::run_config::RunConfig;
use ferrotune::train::{Outcome, Trainer, setup};
use ferrotune::{Error, Result};
use ferrotune_kernels::Device;
use serde_json::json;

use super::{device, open_cached, run_file};
use crate::args::{Args, TrainArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &TrainArgs, report: &Report) -> Result<ExitCode> {
    let config = run_file::load(&a.run, &a.overrides.list(), report)?;
    let dev = device(args, config.train.threads)?;
    let base = open_cached(args, &config.model.base, Some(&config), report)?;
    let outcome = train(&config, &base, &dev, a.resume, report)?;
    report.done(&json!({
        "output": config.output.dir,
        "steps": outcome.steps,
        "loss": outcome.loss,
        "eval_loss": outcome.eval_loss,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.tokens as f64 / outcome.seconds.max(1e-9),
        "peak_rss_bytes": ferrotune::memory::resident().peak,
        "interrupted": outcome.interrupted,
    }));
    Ok(if outcome.interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Trains and writes the whole run folder.
fn train(
    config: &RunConfig,
    base: &BaseModel,
    dev: &Device,
    resume: bool,
    report: &Report,
) -> Result<Outcome> {
    let stop = interrupt_flag()?;
    // Before any work: an existing run is not touched.
    let folder = RunFolder::at(Path::new(&config.output.dir), resume)?;
    let prepared = base.prepare(config)?;
    for event in setup::data_events(&prepared) {
        report.event(&event);
    }
    let mut on_event = |event: &_| report.event(event);
    let mut trainer = Trainer::new(config, base, dev, prepared, &mut on_event)?;
    folder.make()?;
    if resume {
        trainer.resume(&folder, &mut on_event)?;
    }
    finish(config, base, &mut trainer, &folder, &stop, report)
}

/// Runs a trainer to its end and writes the results.
pub fn finish(
    config: &RunConfig,
    base: &BaseModel,
    trainer: &mut Trainer<'_>,
    folder: &RunFolder,
    stop: &AtomicBool,
    report: &Report,
) -> Result<Outcome> {
    folder.write("run.yaml", config.to_yaml().as_bytes())?;
    let outcome = trainer.run(folder, stop, &mut |event| report.event(event))?;
    report.end_bar();
    if outcome.steps == 0 {
        report.say("stopped before the first step: there are no results");
        return Ok(outcome);
    }
    let results = (trainer.summary(), &outcome);
    outputs::write(
        folder,
        config,
        base,
        &trainer.model,
        &trainer.trainable,
        results,
        trainer.fingerprints(),
    )?;
    report.say(format!("results in {}", folder.path().display()));
    Ok(outcome)
}

/// Set by the first Ctrl-C; a second one ends the program at once.
pub fn interrupt_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|e| Error::train(format!("cannot listen for Ctrl-C: {e}")))?;
    Ok(stop)
}
