//! Running a recipe: its test before, training, its test after.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ferrotune::base::BaseModel;
use ferrotune::data::train_row::TrainRow;
use ferrotune::memory::resident;
use ferrotune::plan::init_adapter;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::{DataOptions, EvalSource, RunConfig};
use ferrotune::train::{Trainer, notices};
use ferrotune::units::human;
use ferrotune::{Error, Result};
use ferrotune_kernels::Threads;
use serde_json::{Value, json};

use super::Recipe;
use super::measure::{Compared, Measure};
use crate::args::{Args, RecipeArgs};
use crate::commands::{device, held_out, keep_quantized, open_base, run_file, train, weight_bytes};
use crate::report::Report;

/// Below this hidden size a model knows too little to learn a recipe at the rate of its run file.
const TINY: usize = 256;

/// What such a model takes in its place, unless the user says otherwise.
const TINY_SETTINGS: [(&str, &str); 2] = [("train.lr", "5e-3"), ("train.batch_rows", "16")];

pub fn run(args: &Args, a: &RecipeArgs, recipe: &Recipe, dir: &Path, report: &Report) -> Result<ExitCode> {
    let start = Instant::now();
    let file = dir.join("run.yaml");
    let mut config = run_file::at_home(RunConfig::load(&file, &a.set)?)?;
    config.find_data_beside(&file)?;
    let mut base = open_base(args, &config.model.base, report)?;
    if base.checkpoint.config().hidden_size < TINY {
        let asked = |key: &str| a.set.iter().any(|set| set.split('=').next() == Some(key));
        let settings = TINY_SETTINGS.iter().filter(|(key, _)| !asked(key));
        let settings: Vec<String> = settings.map(|(key, value)| format!("{key}={value}")).collect();
        report.say(format!("this is a tiny model, which learns by larger steps: {}", settings.join(", ")));
        config = config.with(&settings)?;
    }
    init_adapter::adopt(&mut config, &base.checkpoint)?;
    keep_quantized(&mut base, &config.model);
    base.set_template(&config.data)?;
    let stop = train::interrupt_flag()?;
    let dev = device(args, config.train.threads)?;
    let mut folder = RunFolder::at(Path::new(&config.output.dir), Begin::New)?;
    let tests = tests(&dev.threads(), &base, &config, recipe.measure, a.limit)?;

    let prepared = base.prepare(&dev.threads(), &config)?;
    for event in notices::of_rows(&prepared) {
        report.event(&event);
    }
    let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut |event| report.event(event))?;
    folder.make()?;
    let values = |trainer: &Trainer<'_>, when: &str| -> Result<Vec<Vec<f64>>> {
        let of = |test: &Test| {
            let progress = |done| report.status(&format!("{when}: {done} of {}", test.rows.len()));
            recipe.measure.values(trainer, &base, &test.rows, progress)
        };
        tests.iter().map(of).collect()
    };
    let before = values(&trainer, "before")?;
    let outcome = train::finish(&config, &base, &mut trainer, &folder, &[], &stop, report)?;
    if outcome.interrupted {
        return Ok(ExitCode::from(130));
    }
    let after = values(&trainer, "after")?;
    let all = Compared::new(recipe.measure, before.concat(), after.concat());
    let parts: Vec<(String, Compared)> = (tests.iter().zip(before).zip(after))
        .map(|((test, b), a)| (test.name.clone(), Compared::new(recipe.measure, b, a)))
        .collect();

    let mut result = json!({
        "recipe": recipe.name,
        "model": base.name,
        "method": trainer.summary().method,
        "measure": recipe.measure.word(),
        "parts": parts.iter().map(part).collect::<Vec<_>>(),
        "steps": outcome.steps,
        "first_loss": outcome.first_loss,
        "loss": outcome.loss,
        "eval_loss": outcome.eval_loss,
        "tokens_per_second": outcome.tokens as f64 / outcome.seconds.max(1e-9),
        "peak_rss_bytes": resident().peak,
        "adapter_bytes": weight_bytes(folder.path()),
        "seconds": start.elapsed().as_secs_f64(),
        "run_file": file,
        "output": config.output.dir,
    });
    if let (Value::Object(result), Value::Object(means)) = (&mut result, all.to_json()) {
        result.extend(means);
    }
    report.say(summary(recipe, &all, &parts, &result, dir));
    folder.write("recipe.json", format!("{result:#}\n").as_bytes())?;
    report.done(&result);
    Ok(ExitCode::SUCCESS)
}

/// Rows to measure on.
struct Test {
    name: String,
    rows: Vec<TrainRow>,
}

/// The tests of a run: each file of `data.eval` is one.
fn tests(
    threads: &Threads,
    base: &BaseModel,
    config: &RunConfig,
    measure: Measure,
    limit: Option<usize>,
) -> Result<Vec<Test>> {
    let EvalSource::Files(files) = &config.data.eval else {
        return Err(Error::config("data.eval", "a recipe measures on files")
            .with_hint("leave data.eval as the recipe has it, or name files"));
    };
    if limit == Some(0) {
        return Err(Error::config("--limit", "found 0, expected at least 1"));
    }
    // Source files are measured as they stand, so that their losses mean the same at each rate and seed.
    let data = DataOptions { fim_rate: 0.0, ..config.data.clone() };
    let test = |path: &String| {
        let mut rows = held_out::rows(threads, base, &data, Path::new(path))?;
        rows.truncate(limit.unwrap_or(usize::MAX));
        let measurable = match measure {
            Measure::Loss => !rows.is_empty(),
            Measure::ExactMatch { max_new_tokens } => {
                let questions = held_out::questions(rows.iter().cloned().map(Ok), base)?;
                let longest = questions.iter().map(|q| q.prompt.len()).max().unwrap_or(0);
                let (needed, found) = (longest + max_new_tokens, config.data.max_length);
                // The model is loaded for sequences of this length.
                if needed > found {
                    let problem = format!("found {found}, expected at least {needed}");
                    return Err(Error::config("data.max_length", problem).with_hint(format!(
                        "the longest question of {path} has {longest} tokens, an answer up to {max_new_tokens}"
                    )));
                }
                !questions.is_empty()
            }
        };
        if !measurable {
            return Err(Error::config("data.eval", format!("{path}: no row can be measured")));
        }
        let name = PathBuf::from(path);
        let name = name.file_name().map_or(path.clone(), |name| name.to_string_lossy().into_owned());
        Ok(Test { name, rows })
    };
    files.iter().map(test).collect()
}

fn part((name, compared): &(String, Compared)) -> Value {
    let mut part = compared.to_json();
    part["name"] = json!(name);
    part
}

/// The table, and what comes next.
fn summary(recipe: &Recipe, all: &Compared, parts: &[(String, Compared)], r: &Value, dir: &Path) -> String {
    let title = match recipe.measure {
        Measure::ExactMatch { .. } => "exact match",
        Measure::Loss => "loss of a text",
    };
    let head = format!("\n  {:26} {:>16} {:>16} {:>20}", "", "before", "after", "change");
    let mut lines = vec![head];
    if parts.len() > 1 {
        lines.extend(parts.iter().flat_map(|(name, compared)| compared.lines(name)));
    }
    lines.extend(all.lines(title));
    let number = |key: &str| r[key].as_f64().unwrap_or(0.0);
    lines.push(format!(
        "\n  ± is the standard error\n  {:.0} tokens/s, peak memory {}, {:.0} s in all\n\ngo on with",
        number("tokens_per_second"),
        human(r["peak_rss_bytes"].as_u64().unwrap_or(0)),
        number("seconds"),
    ));
    let next = super::folder::next(recipe, &dir.display().to_string());
    // What was done already is not said again.
    lines.push(super::folder::as_lines(&next[2..]));
    lines.join("\n")
}
