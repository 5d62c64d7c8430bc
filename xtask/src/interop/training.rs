//! SmolLM2-135M trained ten steps here and by PEFT from one adapter, on the same token ids.
//!
//! In bf16 PEFT rounds what the base gives and what the adapter gives before it adds them, so the share of a young adapter
//! that is less than half a step of the sum is lost, and the first steps gain less than they do in f32. One matrix product
//! with the adapter as further columns has no such loss. Two comparisons therefore: from an adapter that is trained
//! already, PEFT as it is; from a fresh one, PEFT with that sum in f32 and everything else rounded as before.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Bench, Failure};
use crate::golden::Report;
use crate::shared::rows::{cut, facts, write_rows};
use crate::shared::smollm2;

const STEPS: usize = 10;
const ROWS: usize = 4;
const LENGTH: usize = 128;

/// A pair of runs.
struct Run {
    name: &'static str,
    precision: &'static str,
    /// On the 4-bit folder.
    quantized: bool,
    lr: f64,
    /// The run whose adapter is the start; a fresh one otherwise.
    from: Option<&'static str>,
    /// The reference adds the adapter's share before it rounds.
    sums_in_f32: bool,
}

const fn run(name: &'static str, precision: &'static str, quantized: bool) -> Run {
    Run { name, precision, quantized, lr: 1e-3, from: None, sums_in_f32: false }
}

const fn later(name: &'static str, from: &'static str, quantized: bool) -> Run {
    Run { lr: 2e-4, from: Some(from), ..run(name, "bf16", quantized) }
}

const RUNS: [Run; 6] = [
    run("lora_f32", "f32", false),
    run("qlora_f32", "f32", true),
    later("lora_bf16", "lora_f32", false),
    later("qlora_bf16", "qlora_f32", true),
    Run { sums_in_f32: true, ..run("lora_bf16_fresh", "bf16", false) },
    Run { sums_in_f32: true, ..run("qlora_bf16_fresh", "bf16", true) },
];

impl Bench {
    /// The model as a folder in f32, the user's or the wheel's, and an adapter from which both sides start.
    fn smollm2(&self, work: &Path, start: &Path) -> Result<PathBuf, Failure> {
        if let Some(given) = &self.options.model {
            smollm2::start(&self.ours, given, start)?;
            return Ok(given.clone());
        }
        let gguf = smollm2::gguf(&self.python, &self.options.work)?;
        smollm2::start(&self.ours, &gguf, start)?;
        let folder = work.join("model");
        smollm2::unpack(&self.ours, &gguf, start, &folder, "f32")?;
        Ok(folder)
    }
}

pub(super) fn check(bench: &Bench, print: &mut dyn FnMut(Report)) -> Result<(), Failure> {
    let work = bench.folder("training")?;
    let start = work.join("start");
    let model = bench.smollm2(&work, &start)?;
    let four_bit = work.join("nf4");
    let text = [&model, &four_bit].map(|p| p.display().to_string());
    bench.ours.run(&["quantize", &text[0], "--output", &text[1], "--dtype", "f32"])?;
    let data = work.join("rows.jsonl");
    write_rows(&data, &cut(&facts(&model)?, STEPS * ROWS, LENGTH)?)?;
    let base = |run: &Run| if run.quantized { &four_bit } else { &model };
    let first = |run: &Run| run.from.map_or(start.clone(), |name| work.join(name));
    let mut ours = Vec::new();
    for run in &RUNS {
        let settings = [
            format!("model.base={}", json!(base(run))),
            format!("method.kind={}", if run.quantized { "qlora" } else { "lora" }),
            format!("data.train={}", json!(data)),
            format!("train.init_adapter={}", json!(first(run))),
            format!("train.batch_rows={ROWS}"),
            format!("train.lr={}", run.lr),
            format!("train.precision={}", run.precision),
        ];
        ours.push(bench.ours.train(&work.join(run.name), &settings));
    }
    let case = |r: &Run| {
        json!({
            "name": r.name, "base": base(r), "adapter": first(r), "lr": r.lr, "dtype": r.precision,
            "four_bit": r.quantized, "sums_in_f32": r.sums_in_f32,
        })
    };
    let job = json!({
        "out": work, "rows": data, "rows_of_step": ROWS, "planted": bench.options.plant,
        "cases": RUNS.iter().map(case).collect::<Vec<_>>(),
    });
    let answers = bench.python.run("interop/training.py", &work, &job)?;
    for (run, losses) in RUNS.iter().zip(ours) {
        let mut report = Report::new(format!("training smollm2-135m {}", run.name));
        let outcome = losses.and_then(|losses| compare(run, &losses, answers.of(run.name)?, &mut report));
        print(report.with(outcome));
    }
    Ok(())
}

fn compare(run: &Run, ours: &[f64], answer: &Value, report: &mut Report) -> Result<(), Failure> {
    let theirs = answer["losses"].as_array().ok_or_else(|| Failure("no losses".into()))?;
    let theirs: Vec<f64> = theirs.iter().filter_map(Value::as_f64).collect();
    if [ours.len(), theirs.len()] != [STEPS; 2] {
        return Err(Failure(format!("{} steps here, {} there", ours.len(), theirs.len())));
    }
    for (ours, theirs) in ours.iter().zip(&theirs) {
        match run.precision {
            "f32" => report.error("losses", (ours - theirs).abs(), 1e-4),
            _ => report.error("losses_relative", (ours / theirs - 1.0).abs(), 0.01),
        }
    }
    report.note(format!(
        "{:.4} -> {:.4}, theirs {:.4} -> {:.4}",
        ours[0],
        ours[STEPS - 1],
        theirs[0],
        theirs[STEPS - 1]
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_step_that_differs_or_is_missing_fails() {
        let passes = |precision: &str, theirs: &[f64]| {
            let run = RUNS.iter().find(|r| r.precision == precision).unwrap_or(&RUNS[0]);
            let mut report = Report::new(String::new());
            let outcome = compare(run, &[3.0; STEPS], &json!({"losses": theirs}), &mut report);
            report.with(outcome).passed()
        };
        let mut theirs = [3.00005; STEPS];
        assert!(passes("f32", &theirs) && passes("bf16", &theirs));
        assert!(!passes("f32", &theirs[1..]));
        theirs[7] = 3.0002;
        assert!(!passes("f32", &theirs) && passes("bf16", &theirs));
        theirs[7] = 3.04;
        assert!(!passes("bf16", &theirs));
    }
}
