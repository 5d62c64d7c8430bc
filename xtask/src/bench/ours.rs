//! Our side: the program as a user runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use ferrotune_kernels::cpu::Isa;
use serde_json::{Value, json};

use super::cases::Case;
use super::measured::Measured;
use super::work::{Workload, Written};
use super::{ALPHA, RANK};
use crate::golden::Failure;
use crate::shared::ours::Ours;
use crate::shared::python::number;

/// What is continued, by how many tokens.
pub(super) const PROMPT: &str = "A balance sheet shows what a company owns and what it owes. Its first part";
pub(super) const NEW_TOKENS: usize = 96;

/// What every run of ours sets.
pub(super) fn settings(
    method: &str,
    precision: &str,
    workload: Workload,
    rows: &Written,
    model: &Path,
    threads: usize,
) -> Vec<String> {
    vec![
        format!("model.base={}", json!(model)),
        format!("method.kind={method}"),
        format!("method.rank={RANK}"),
        format!("method.alpha={ALPHA}"),
        format!("data.train={}", json!(rows.path)),
        format!("train.batch_rows={}", workload.rows_of_step()),
        format!("train.precision={precision}"),
        format!("train.threads={threads}"),
    ]
}

/// Trains a case into the folder `run`, which must not be there.
pub(super) fn train(
    ours: &Ours,
    case: &Case,
    rows: &Written,
    model: &Path,
    isa: Isa,
    run: &Path,
) -> Result<Measured, Failure> {
    let mut settings = settings(case.method.name(), case.precision, case.workload, rows, model, case.threads);
    settings
        .extend([format!("train.lr={}", case.method.lr()), format!("data.share_prefixes={}", case.shared)]);
    let mut command = ours.training(run, &settings)?;
    command.args(["--isa", isa.name()]);
    let start = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut first_step = None;
    let mut last = String::new();
    // Events are JSON lines; other lines, an error's among them, are text.
    for line in BufReader::new(child.stderr.take().ok_or_else(|| Failure("no stderr".into()))?).lines() {
        last = line?;
        if first_step.is_none() && serde_json::from_str::<Value>(&last).is_ok_and(|e| e["event"] == "step") {
            first_step = Some(start.elapsed().as_secs_f64());
        }
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(Failure(format!("ferrotune train: {status}: {last}")));
    }
    read(run, first_step.ok_or_else(|| Failure("no step was reported".into()))?)
}

/// What the run folder says.
fn read(run: &Path, first_step: f64) -> Result<Measured, Failure> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl"))?;
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let receipt: Value = serde_json::from_slice(&std::fs::read(run.join("receipt.json"))?)?;
    let measured = Measured::of_steps(&lines)?;
    Ok(Measured {
        load_seconds: first_step - measured.seconds[0],
        trainable: number(&receipt, "trainable_parameters")?,
        peak_bytes: number(&receipt, "peak_rss_bytes")?,
        ..measured
    })
}

/// Tokens per second of greedy decoding.
pub(super) fn decode(
    ours: &Ours,
    model: &Path,
    storage: &str,
    isa: Isa,
    threads: usize,
) -> Result<f64, Failure> {
    let (model, threads) = (model.display().to_string(), threads.to_string());
    let new = NEW_TOKENS.to_string();
    let mut arguments = vec!["--threads", &threads, "--isa", isa.name(), "generate", &model, "--raw"];
    arguments.extend([
        "--prompt",
        PROMPT,
        "--temperature",
        "0",
        "--max-new-tokens",
        &new,
        "--quant",
        storage,
    ]);
    number(&ours.run(&arguments)?, "tokens_per_second")
}
