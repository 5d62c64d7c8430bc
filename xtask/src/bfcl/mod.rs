//! `cargo xtask bfcl`: tool calling, measured on questions of the Berkeley Function Calling Leaderboard.
//!
//! The questions come from the package `bfcl-eval` (Apache-2.0), whose folder `bfcl_eval` a user names; none of them is in
//! this project. The questions of users (`live_*`) become rows to train on, those of `simple_python` the test.
//! docs/recipes/tool-calling.md has the commands.

mod answers;
mod check;
mod mutate;
mod package;
mod rows;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use self::answers::{Answered, beside, summary};
use self::check::{Call, Fault};
use self::package::{Question, lines, questions};
use crate::golden::Failure;

/// Categories to train on.
const TRAIN: [&str; 4] = ["live_simple", "live_multiple", "live_parallel", "live_parallel_multiple"];

/// The category to measure on.
const TEST: &str = "simple_python";

/// Further categories on whose answers the checks are compared.
const FURTHER: [&str; 3] = ["multiple", "parallel", "parallel_multiple"];

/// A chat template with tools in the system message, for models whose own has none.
const TEMPLATE: &str = include_str!("../../bfcl/template.jinja");
const RUN_FILE: &str = include_str!("../../bfcl/run.yaml");

/// What is done.
#[derive(Debug, clap::Subcommand)]
pub enum Step {
    /// Write the rows of training and test, a chat template and a run file.
    Rows {
        /// Folder `bfcl_eval` of the package.
        #[arg(long)]
        package: PathBuf,
        /// Folder for the files.
        #[arg(long, default_value = "target/bfcl")]
        output: PathBuf,
    },
    /// Check the answers that `ferrotune eval --answers` wrote to the test.
    Check {
        /// Folder `bfcl_eval` of the package.
        #[arg(long)]
        package: PathBuf,
        /// Files of answers; a second one is compared with the first, question by question.
        #[arg(long, required = true, num_args = 1..=2)]
        answers: Vec<PathBuf>,
    },
    /// Compare this check with the package's own, on answers and on changed answers of the package.
    Compare {
        /// Folder `bfcl_eval` of the package.
        #[arg(long)]
        package: PathBuf,
        /// Files of answers to the test.
        #[arg(long, num_args = 1..)]
        answers: Vec<PathBuf>,
        /// A Python interpreter; it needs no packages.
        #[arg(long, default_value = "python3")]
        python: PathBuf,
    },
}

/// Does it and prints what came of it; whether all is well.
#[allow(clippy::print_stdout)]
pub fn run(step: &Step) -> bool {
    let done = match step {
        Step::Rows { package, output } => write(package, output).map(|text| (text, true)),
        Step::Check { package, answers } => check_answers(package, answers).map(|text| (text, true)),
        Step::Compare { package, answers, python } => compare(package, answers, python),
    };
    match done {
        Ok((text, well)) => {
            print!("{text}");
            well
        }
        Err(Failure(text)) => {
            println!("FAIL bfcl: {text}");
            false
        }
    }
}

fn write(package: &Path, output: &Path) -> Result<String, Failure> {
    std::fs::create_dir_all(output)?;
    let mut said = String::new();
    let mut train = Vec::new();
    for category in TRAIN {
        for question in questions(package, category)? {
            // Answers that the check itself does not take would teach what is wrong.
            match question.check(&question.gold()?) {
                Ok(()) => train.push(question),
                Err(fault) => {
                    said += &format!("left out: {}, {} in its first answer\n", question.id, fault.words())
                }
            }
        }
    }
    for (name, questions) in [("train.jsonl", train), ("test.jsonl", questions(package, TEST)?)] {
        let lines = questions.iter().map(|question| Ok(format!("{}\n", rows::row(question)?)));
        std::fs::write(output.join(name), lines.collect::<Result<String, Failure>>()?)?;
        said += &format!("{name}: {} rows\n", questions.len());
    }
    std::fs::write(output.join("template.jinja"), TEMPLATE)?;
    std::fs::write(output.join("run.yaml"), RUN_FILE)?;
    Ok(said)
}

fn check_answers(package: &Path, files: &[PathBuf]) -> Result<String, Failure> {
    let questions = questions(package, TEST)?;
    let mut said = String::new();
    let mut all = Vec::new();
    for file in files {
        let answered = beside(&questions, &lines(file)?)?;
        let verdicts: Vec<_> = answered.iter().map(Answered::verdict).collect();
        said += &format!("{}\n{}", file.display(), summary(&verdicts));
        all.push(verdicts);
    }
    if let [before, after] = &all[..] {
        let pairs: Vec<f64> = (before.iter().zip(after))
            .map(|(b, a)| f64::from(u8::from(a.is_ok())) - f64::from(u8::from(b.is_ok())))
            .collect();
        let n = pairs.len() as f64;
        let mean = pairs.iter().sum::<f64>() / n;
        let squares: f64 = pairs.iter().map(|pair| (pair - mean).powi(2)).sum();
        let error = (squares / (n * (n - 1.0))).sqrt();
        said +=
            &format!("difference: {:+.1} ± {:.1} points over {n} questions\n", 100.0 * mean, 100.0 * error);
    }
    Ok(said)
}

/// Items whose verdicts are compared.
#[derive(Default)]
struct Items {
    lines: String,
    ours: Vec<(String, Result<(), Fault>)>,
}

impl Items {
    fn add(&mut self, category: &str, question: &Question, calls: &[Call]) {
        let calls_of_json: Vec<Value> =
            calls.iter().map(|call| json!({"name": call.name, "arguments": call.arguments})).collect();
        let item = json!({
            "category": category, "functions": question.functions, "possible": question.possible, "calls": calls_of_json,
        });
        self.lines += &format!("{item}\n");
        self.ours.push((format!("{} {}", question.id, Value::from(calls_of_json)), question.check(calls)));
    }
}

/// Both checks over the answers and over changed ones; whether they agree on all.
fn compare(package: &Path, files: &[PathBuf], python: &Path) -> Result<(String, bool), Failure> {
    let mut items = Items::default();
    let asked = questions(package, TEST)?;
    for file in files {
        for answered in beside(&asked, &lines(file)?)? {
            // An answer without calls never comes to the package's check.
            if let Ok(calls) = &answered.calls {
                items.add(TEST, answered.question, calls);
            }
        }
    }
    let of_models = items.ours.len();
    for category in [&[TEST][..], &TRAIN, &FURTHER].concat() {
        for question in questions(package, category)? {
            for calls in mutate::mutated(&question)? {
                items.add(category, &question, &calls);
            }
        }
    }
    let theirs = verdicts(python, package, items.lines)?;
    if theirs.len() != items.ours.len() {
        return Err(Failure(format!("{} verdicts for {} items", theirs.len(), items.ours.len())));
    }
    let (mut said, mut apart, mut right, mut exceptions) = (String::new(), 0, 0, 0);
    for ((what, ours), theirs) in items.ours.iter().zip(&theirs) {
        right += usize::from(theirs["valid"] == true);
        exceptions +=
            usize::from(theirs["reason"].as_str().is_some_and(|reason| reason.starts_with("exception")));
        if theirs["valid"] != ours.is_ok() {
            apart += 1;
            if apart <= 10 {
                said += &format!(
                    "APART {what}: {ours:?}, the package {} {}\n",
                    theirs["valid"], theirs["reason"]
                );
            }
        }
    }
    said += &format!(
        "{} items ({of_models} answers of models): {apart} verdicts differ; {right} right, {exceptions} exceptions of the package\n",
        theirs.len()
    );
    Ok((said, apart == 0))
}

/// What the package's own check says of items.
fn verdicts(python: &Path, package: &Path, items: String) -> Result<Vec<Value>, Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/make/bfcl.py");
    let mut command = Command::new(python);
    command.arg(script).arg(package).env("PYTHONIOENCODING", "utf-8");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| Failure("no standard input".into()))?;
    // Beside the reading, as both sides would wait for each other.
    let writing = std::thread::spawn(move || input.write_all(items.as_bytes()));
    let output = child.wait_with_output()?;
    writing.join().map_err(|_| Failure("the items were not written".into()))??;
    if !output.status.success() {
        return Err(Failure(format!("{command:?}: {}", output.status)));
    }
    String::from_utf8(output.stdout)?.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own functions and calls with the verdicts of the package (`testdata/make/bfcl.py`).
    #[test]
    fn verdicts_are_those_of_the_package() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/bfcl/cases.jsonl");
        let cases = lines(&file).unwrap();
        assert!(cases.len() > 60 && cases.iter().any(|case| case["valid"] == true), "{}", cases.len());
        for case in cases {
            let list = |key: &str| case[key].as_array().unwrap().clone();
            let calls = answers::calls(&case["calls"].to_string()).unwrap();
            let mode = check::Mode::of(case["category"].as_str().unwrap());
            let verdict = check::check(mode, &list("functions"), &list("possible"), &calls);
            assert_eq!(Value::from(verdict.is_ok()), case["valid"], "{case}: {verdict:?}");
        }
    }
}
