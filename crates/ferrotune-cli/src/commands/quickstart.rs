//! `quickstart`: a real finance task from before to after, every number measured in this run.
//!
//! Given the name of a US-GAAP concept, answer its statement and section. A starter model learns the `train` facts and
//! is asked about `validation` concepts that it has never seen.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ferrotune::base::BaseModel;
use ferrotune::generate::answers::{Question, answer};
use ferrotune::memory::resident;
use ferrotune::plan::init_adapter;
use ferrotune::results::run_folder::{Begin, RunFolder};
use ferrotune::run_config::{
    DataOptions, MethodKind, MethodOptions, ModelOptions, OutputOptions, QuantKind, QuantOptions, RunConfig,
    Shape, TrainOptions,
};
use ferrotune::train::{Trainer, notices};
use ferrotune::units::human;
use ferrotune::{Error, Result};
use serde_json::{Value, json};

use super::starter::open_starter;
use super::us_gaap::{self, Fact};
use super::{data_sets, device, held_out, run_file, train, weight_bytes};
use crate::args::{Args, QuickstartArgs};
use crate::report::Report;

/// Tokens of an answer; the longest expected one has 13.
const ANSWER: usize = 20;

pub fn run(args: &Args, a: &QuickstartArgs, report: &Report) -> Result<ExitCode> {
    let start = Instant::now();
    let (name, source, mut base) = match &a.model {
        Some(name) => (name.clone(), "given", super::open_base(args, name, report)?),
        None => {
            let (found, base) = open_starter(args, report)?;
            (found.name, found.source.as_str(), base)
        }
    };
    report.say(format!("model: {name} ({source})"));
    let (train_facts, questions) = facts(a)?;
    let dir = output(a);
    let mut folder = RunFolder::at(&dir, Begin::New)?;
    let mut config = config(a, &dir, &name, &base)?;
    init_adapter::adopt(&mut config, &base.checkpoint)?;
    super::keep_quantized(&mut base, &config.model);
    let stop = train::interrupt_flag()?;
    let dev = device(args, config.train.threads)?;
    folder.make()?;
    folder.write("train.jsonl", us_gaap::lines(&train_facts).as_bytes())?;
    folder.write("validation.jsonl", us_gaap::lines(&questions).as_bytes())?;
    report.say(format!(
        "task: the statement and section of a US-GAAP concept; {} facts to learn, {} other concepts asked before and after",
        train_facts.len(),
        questions.len()
    ));

    let located = data_sets::locate(args, &config, report)?;
    let prepared = base.prepare(&dev.threads(), &located.config)?;
    for event in notices::of_rows(&prepared) {
        report.event(&event);
    }
    let asked =
        held_out::rows(&dev.threads(), &base, &DataOptions::default(), &dir.join("validation.jsonl"))?;
    let asked = held_out::questions(asked.into_iter().map(Ok), &base)?;
    fits(&asked, config.data.max_length)?;
    let mut trainer = Trainer::new(&config, &base, &dev, prepared, &mut |event| report.event(event))?;
    let before = ask(&trainer, &base, &asked, "before", report)?;
    let outcome = train::finish(&config, &base, &mut trainer, &folder, &located.data_sets, &stop, report)?;
    if outcome.interrupted {
        return Ok(ExitCode::from(130));
    }
    let after = ask(&trainer, &base, &asked, "after", report)?;
    let summary = trainer.summary();
    let result = json!({
        "model": name,
        "source": source,
        "method": summary.method,
        "base_format": summary.base_format,
        "exact_match_before": before.exact,
        "exact_match_after": after.exact,
        "statement_match_before": before.statement,
        "statement_match_after": after.statement,
        "eval_rows": asked.len(),
        "tokens_per_second": outcome.tokens as f64 / outcome.seconds.max(1e-9),
        "peak_rss_bytes": resident().peak,
        "adapter_bytes": weight_bytes(&dir),
        "model_bytes": weight_bytes(base.checkpoint.path()),
        "trainable_parameters": summary.trainable_parameters,
        "total_parameters": summary.total_parameters,
        "seconds": start.elapsed().as_secs_f64(),
        "output": dir,
    });
    summarize(&result, (&asked[0], &before, &after), &dir, report);
    folder.write("quickstart.json", format!("{result:#}\n").as_bytes())?;
    report.done(&result);
    Ok(ExitCode::SUCCESS)
}

/// The facts to learn and the concepts to ask about, as many as are asked for.
fn facts(a: &QuickstartArgs) -> Result<(Vec<Fact>, Vec<Fact>)> {
    let (mut train, mut validation) = us_gaap::facts()?;
    train.truncate(a.facts.unwrap_or(usize::MAX).max(1));
    validation.truncate(a.questions.unwrap_or(usize::MAX).max(1));
    Ok((train, validation))
}

/// Refuses questions that, with their answers, are longer than what the model is loaded for.
fn fits(asked: &[Question], max_length: usize) -> Result<()> {
    let needed = asked.iter().map(|question| question.prompt.len()).max().unwrap_or(0) + ANSWER;
    if needed <= max_length {
        return Ok(());
    }
    let problem = format!("{max_length}, but the longest question with its answer may have {needed} tokens");
    Err(Error::config("data.max_length", problem).with_hint(format!("set it to {needed} or more")))
}

/// The folder asked for, or the first free `runs/quickstart`, `runs/quickstart-2`, ...
fn output(a: &QuickstartArgs) -> PathBuf {
    if let Some(dir) = &a.output {
        return dir.clone();
    }
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/quickstart-{n}")));
    let first = std::iter::once(PathBuf::from("runs/quickstart"));
    first.chain(numbered).find(|p| !p.exists()).unwrap_or_else(|| PathBuf::from("runs/quickstart"))
}

/// The recipe: one pass in steps of 8 facts (16 for a tiny model), rank 16 on all linears, cosine from 1e-3 (full fine-tuning: 1e-4).
/// A model as small as the built-in one knows too little to learn it in one pass: more passes at a higher rate.
fn config(a: &QuickstartArgs, dir: &Path, model: &str, base: &BaseModel) -> Result<RunConfig> {
    let tiny = base.checkpoint.config().hidden_size < 256;
    let (lr, epochs) = match (a.method, tiny) {
        (MethodKind::Full, false) => (1e-4, 1),
        (MethodKind::Full, true) => (2e-3, 5),
        (_, false) => (1e-3, 1),
        (_, true) => (5e-3, 8),
    };
    // The form of a base that is not quantized in training has no meaning.
    let quant = if a.method == MethodKind::Qlora { a.quant } else { QuantKind::default() };
    let config = RunConfig {
        model: ModelOptions { base: model.to_string(), ..Default::default() },
        method: MethodOptions {
            kind: a.method,
            quant: QuantOptions { kind: quant, ..Default::default() },
            ..Default::default()
        },
        data: DataOptions {
            train: vec![dir.join("train.jsonl").display().to_string()],
            max_length: 256,
            ..Default::default()
        },
        train: TrainOptions {
            batch_rows: Some(if tiny { 16 } else { 8 }),
            lr: Some(lr),
            epochs,
            schedule: Shape::Cosine,
            ..Default::default()
        },
        output: OutputOptions { dir: dir.display().to_string(), ..Default::default() },
        ..Default::default()
    };
    run_file::at_home(config.with(&a.set)?)
}

/// Shares of right answers.
struct Score {
    exact: f64,
    statement: f64,
    first: String,
}

fn ask(
    trainer: &Trainer<'_>,
    base: &BaseModel,
    asked: &[Question],
    when: &str,
    report: &Report,
) -> Result<Score> {
    let answers = answer(&trainer.session.model, &trainer.session.pass(), base, asked, ANSWER, |done| {
        report.status(&format!("asking {when}: {done} of {}", asked.len()));
    })?;
    let statement = |text: &str| text.split('/').next().unwrap_or_default().trim().to_string();
    let share = |right: usize| right as f64 / asked.len().max(1) as f64;
    let pairs = || asked.iter().map(|q| &q.expected).zip(&answers);
    Ok(Score {
        exact: share(pairs().filter(|(e, a)| e == a).count()),
        statement: share(pairs().filter(|(e, a)| statement(e) == statement(a)).count()),
        first: answers.first().cloned().unwrap_or_default(),
    })
}

fn summarize(r: &Value, (question, before, after): (&Question, &Score, &Score), dir: &Path, report: &Report) {
    let percent = |key: &str| format!("{:5.1}%", 100.0 * r[key].as_f64().unwrap_or(0.0));
    let bytes = |key: &str| human(r[key].as_u64().unwrap_or(0));
    let one_line = |text: &str| text.replace('\n', " ");
    let dir = dir.display();
    report.say(format!(
        "\n  the first question, on a concept never trained on; expected: {}\n    before: {}\n    after:  {}\n\n\
         \u{20}                          before    after\n\
         \u{20} statement right         {}   {}\n\
         \u{20} statement and section   {}   {}\n\n\
         \u{20} {:.0} tokens/s, peak memory {}, {:.0} s in all\n\
         \u{20} {} {} beside a model of {}\n\n\
         go on with\n  ferrotune chat {dir}\n  ferrotune eval {dir} --data {dir}/validation.jsonl --exact-match\n  \
         ferrotune merge {dir} --output {dir}-merged\n  ferrotune preview {dir}/run.yaml\n  \
         ferrotune train YOUR.yaml      (copy {dir}/run.yaml and put your rows in data.train)",
        question.expected,
        one_line(&before.first),
        one_line(&after.first),
        percent("statement_match_before"),
        percent("statement_match_after"),
        percent("exact_match_before"),
        percent("exact_match_after"),
        r["tokens_per_second"].as_f64().unwrap_or(0.0),
        bytes("peak_rss_bytes"),
        r["seconds"].as_f64().unwrap_or(0.0),
        if r["method"] == "full" { "trained model" } else { "adapter" },
        bytes("adapter_bytes"),
        bytes("model_bytes"),
    ));
}
