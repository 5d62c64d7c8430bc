//! `train`: a run file becomes a run folder.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ferrotune::base::BaseModel;
use ferrotune::data::chat_template::Clock;
use ferrotune::fetch::data_sets::DataSet;
use ferrotune::plan::init_adapter;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::{EvalSource, MethodKind, RunConfig};
use ferrotune::train::outputs;
use ferrotune::train::record::Summary;
use ferrotune::train::{Outcome, Trainer, notices};
use ferrotune::units::human;
use ferrotune::{Error, Result};
use ferrotune_kernels::Device;
use serde_json::json;

use super::{data_sets, device, open_cached, run_file, weight_bytes};
use crate::args::{Args, TrainArgs};
use crate::report::Report;

pub fn run(args: &Args, a: &TrainArgs, report: &Report) -> Result<ExitCode> {
    let start = Instant::now();
    let mut config = run_file::load(&a.run, &a.overrides.list(), report)?;
    let dev = device(args, config.train.threads)?;
    let mut base = open_cached(args, &config.model.base, Some(&config), report)?;
    init_adapter::adopt(&mut config, &base.checkpoint)?;
    let (outcome, summary) = train(args, &config, &mut base, &dev, a, report)?;
    if outcome.steps > 0 && !outcome.interrupted && !report.json() {
        report.say(conclusion(&config, &outcome, &summary, start.elapsed().as_secs_f64()));
    }
    report.done(&json!({
        "output": config.output.dir,
        "steps": outcome.steps,
        "first_loss": outcome.first_loss,
        "loss": outcome.loss,
        "eval_loss": outcome.eval_loss,
        "tokens": outcome.tokens,
        "seconds": outcome.seconds,
        "tokens_per_second": outcome.tokens as f64 / outcome.seconds.max(1e-9),
        "peak_rss_bytes": ferrotune::memory::resident().peak,
        "planned_bytes": summary.plan.total(),
        "result_bytes": weight_bytes(Path::new(&config.output.dir)),
        "interrupted": outcome.interrupted,
    }));
    Ok(if outcome.interrupted { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Trains and writes the whole run folder.
fn train(
    args: &Args,
    config: &RunConfig,
    base: &mut BaseModel,
    dev: &Device,
    a: &TrainArgs,
    report: &Report,
) -> Result<(Outcome, Summary)> {
    let stop = interrupt_flag()?;
    let begin = match (a.resume, a.restart) {
        (true, _) => Begin::Resume,
        (_, true) => Begin::Restart,
        _ => Begin::New,
    };
    // Before any work: a folder that this run must not touch is refused.
    let mut folder = RunFolder::at(Path::new(&config.output.dir), begin)?;
    folder.refuse_base(base.checkpoint.path())?;
    let point = if a.resume { folder.resume_point(&dev.threads())? } else { None };
    if let Some(point) = &point {
        base.set_clock(Clock { unix_seconds: point.state.clock });
    }
    let located = data_sets::locate(args, config, report)?;
    let prepared = base.prepare(&dev.threads(), &located.config)?;
    for event in notices::of_rows(&prepared) {
        report.event(&event);
    }
    let mut on_event = |event: &_| report.event(event);
    let mut trainer = Trainer::new(config, base, dev, prepared, &mut on_event)?;
    folder.make()?;
    if a.resume {
        trainer.resume(&folder, point, a.accept_changes, &mut on_event)?;
    }
    let outcome = finish(config, base, &mut trainer, &folder, &located.data_sets, &stop, report)?;
    Ok((outcome, trainer.summary().clone()))
}

/// Runs a trainer to its end and writes the results.
pub fn finish(
    config: &RunConfig,
    base: &BaseModel,
    trainer: &mut Trainer<'_>,
    folder: &RunFolder,
    data_sets: &[DataSet],
    stop: &AtomicBool,
    report: &Report,
) -> Result<Outcome> {
    folder.write("run.yaml", config.to_yaml().as_bytes())?;
    let outcome = trainer.run(Some(folder), stop, &mut |event| report.event(event))?;
    report.end_bar();
    if outcome.steps == 0 {
        report.say("stopped before the first step: there are no results");
        return Ok(outcome);
    }
    outputs::write(folder, config, base, trainer, &outcome, data_sets)?;
    report.say(format!("results in {}", folder.path().display()));
    Ok(outcome)
}

/// What came out of a run, and what to do with it.
fn conclusion(config: &RunConfig, outcome: &Outcome, summary: &Summary, seconds: f64) -> String {
    let dir = &config.output.dir;
    let speed = outcome.tokens as f64 / outcome.seconds.max(1e-9);
    let (peak, plan) = (ferrotune::memory::resident().peak, summary.plan.total() as u64);
    let full = config.method.kind == MethodKind::Full;
    let mut lines = vec![
        format!("  steps          {} in {}, {speed:.0} tokens/s", outcome.steps, duration(seconds)),
        format!(
            "  loss           {:.4} in the first step, {:.4} in the last",
            outcome.first_loss, outcome.loss
        ),
    ];
    lines.extend(outcome.eval_loss.map(|loss| format!("  held-out loss  {loss:.4}")));
    lines.push(format!("  peak memory    {} of {} planned", human(peak), human(plan)));
    let what = if full { "model  " } else { "adapter" };
    lines.push(format!("  {what}        {}", human(weight_bytes(Path::new(dir)))));
    let data = match &config.data.eval {
        EvalSource::Files(files) => files.join(" "),
        _ => config.data.paths().join(" "),
    };
    lines.push("go on with".into());
    lines.push(format!("  ferrotune chat {dir}"));
    lines.push(format!("  ferrotune eval {dir} --data {data}"));
    if !full {
        lines.push(format!("  ferrotune merge {dir} --output {dir}-merged"));
    }
    lines.join("\n")
}

/// `45 s`, `12 min 3 s`, `3 h 20 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
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
    ctrlc::set_handler(handler).map_err(|e| {
        Error::train(format!("cannot listen for Ctrl-C: {e}"))
            .with_hint("the system may have no room for a thread: raise the limits on processes and memory")
    })?;
    Ok(stop)
}
