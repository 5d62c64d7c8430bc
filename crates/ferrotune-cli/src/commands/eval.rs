//! `eval`: loss, perplexity and exact match on rows.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ferrotune::data::dataset::ReadOptions;
use ferrotune::data::loader::EvalBatches;
use ferrotune::data::pack::Packing;
use ferrotune::data::token_rows::TokenRows;
use ferrotune::data::tokenize::{Names, PrepReport};
use ferrotune::generate::answers::{Question, answer};
use ferrotune::loss::{NextToken, evaluate};
use ferrotune::run_config::DataOptions;
use ferrotune::train::Event;
use ferrotune::{Error, Result};
use serde_json::json;

use super::open::{Loaded, open};
use super::{data_sets, device, held_out};
use crate::args::{Args, EvalArgs};
use crate::report::{Report, grouped};

/// Tokens of a packed micro-batch.
const MICRO_BATCH: usize = 2048;

pub fn run(args: &Args, a: &EvalArgs, report: &Report) -> Result<ExitCode> {
    let file = a.answers.as_deref().map(AnswersFile::open).transpose()?;
    let files = data_sets::locate_paths(args, "--data", &a.data, report)?;
    let loaded = open(args, &a.model, device(args, None)?, a.max_length + a.max_new_tokens, report)?;
    let (rows, prepared) = rows(&loaded, a, &files)?;
    for text in prepared.warnings_in(Names::OPTIONS) {
        report.event(&Event::Warning { text });
    }
    let packing = Packing::Shared(loaded.model.arch.fixed_rotation());
    let batches =
        EvalBatches { rows: rows.clone(), rows_per_example: 1, micro_batch_tokens: MICRO_BATCH, packing };
    let pass = loaded.own_pass();
    let loss = evaluate(&NextToken, &loaded.model, &pass, batches.iter())?;
    let (mean, perplexity) = (loss.mean(), loss.mean().exp());
    report.say(format!("rows        {}", grouped(rows.len())));
    report.say(format!("loss        {mean:.4} over {} label tokens", grouped(loss.count)));
    report.say(format!("perplexity  {perplexity:.3}"));
    let mut result = json!({
        "rows": rows.len(), "report": prepared, "eval_loss": mean, "eval_label_tokens": loss.count, "perplexity": perplexity,
    });
    if a.exact_match || a.answers.is_some() {
        let questions = held_out::questions((0..rows.len()).map(|row| rows.row(row)), &loaded.base)?;
        if questions.is_empty() {
            let option = if a.exact_match { "--exact-match" } else { "--answers" };
            return Err(Error::config(option, "no row has a prompt and an answer")
                .with_hint("rows of plain text have nothing to answer"));
        }
        let answers = answer(&loaded.model, &pass, &loaded.base, &questions, a.max_new_tokens, |_| {})?;
        let exact = questions.iter().zip(&answers).filter(|(q, a)| q.expected == **a).count();
        let share = exact as f64 / questions.len() as f64;
        report.say(format!("exact match {:.1}% ({exact} of {})", 100.0 * share, questions.len()));
        result["exact_match"] = json!(share);
        result["questions"] = json!(questions.len());
        if let Some(file) = file {
            file.write(&questions, &answers)?;
            report.say(format!("answers are in {}", file.path.display()));
        }
    }
    report.done(&result);
    Ok(ExitCode::SUCCESS)
}

/// Where the answers go.
struct AnswersFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> AnswersFile<'a> {
    /// Opens the file, so that one that cannot be written is said before the work; what it holds stays until then.
    fn open(path: &'a Path) -> Result<Self> {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|e| Error::io(path, e))?;
        Ok(AnswersFile { path, file })
    }

    fn write(&self, questions: &[Question], answers: &[String]) -> Result<()> {
        let line = |(q, given): (&Question, &String)| {
            format!("{}\n", json!({"expected": q.expected, "answer": given}))
        };
        let lines: String = questions.iter().zip(answers).map(line).collect();
        let written = self.file.set_len(0).and_then(|()| (&self.file).write_all(lines.as_bytes()));
        written.map_err(|e| Error::io(self.path, e))
    }
}

fn rows(loaded: &Loaded, a: &EvalArgs, files: &[PathBuf]) -> Result<(TokenRows, PrepReport)> {
    let at_least = |option: &str, found: usize, least: usize| match found >= least {
        true => Ok(()),
        false => Err(Error::config(option, format!("found {found}, expected at least {least}"))),
    };
    at_least("--limit", a.limit.unwrap_or(1), 1)?;
    at_least("--max-length", a.max_length, 2)?;
    let read = loaded.base.read_options(&loaded.data);
    let read = ReadOptions { limit: a.limit, other_names: true, ..read };
    let data = DataOptions { max_length: a.max_length, ..loaded.data.clone() };
    let preparer = loaded.base.preparer(&data).named(Names::OPTIONS).seeded(loaded.seed);
    loaded.base.prepare_files(&loaded.dev.threads(), &preparer, files, read)
}
