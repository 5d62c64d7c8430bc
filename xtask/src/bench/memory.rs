//! Predicted against measured peak memory, for many ways to train: the plan must be an upper bound, and a near one.

use std::path::Path;

use serde_json::Value;

use super::limit::Limit;
use super::work::{self, Workload};
use super::{Bench, cases, large, measured, ours};
use crate::golden::Failure;
use crate::shared::python::number;

/// Steps of a run: the second one has all buffers, the third shows that nothing grows.
const STEPS: usize = 3;

/// A peak may be this share of the prediction at least, where the model has 100 MB and more.
const LEAST: f64 = 0.9;

/// Small model: name and what is set besides the method.
const SMALL: [(&str, &str, &[&str]); 25] = [
    ("lora keep", "lora", &[]),
    ("lora lean", "lora", &["train.activations=lean"]),
    ("lora recompute", "lora", &["train.activations=recompute"]),
    ("lora streamed", "lora", &["train.stream=always"]),
    ("lora dora", "lora", &["method.dora=true"]),
    ("lora 8-bit optimizer", "lora", &["train.optimizer=adamw8bit"]),
    ("qlora keep", "qlora", &[]),
    ("qlora f32", "qlora", &["train.precision=f32"]),
    ("qlora lean", "qlora", &["train.activations=lean"]),
    ("qlora recompute", "qlora", &["train.activations=recompute"]),
    ("qlora streamed", "qlora", &["train.stream=always"]),
    ("qlora nf4 embeddings", "qlora", &["model.embeddings=nf4"]),
    ("qlora int8 embeddings", "qlora", &["model.embeddings=int8"]),
    (
        "qlora nf4 embeddings, lean streamed",
        "qlora",
        &["model.embeddings=nf4", "train.activations=lean", "train.stream=always"],
    ),
    ("qlora int8", "qlora", &["method.quant.type=int8"]),
    ("qlora 8-bit activations", "qlora", &["train.activation_storage=int8"]),
    ("qlora 8-bit activations streamed", "qlora", &["train.activation_storage=int8", "train.stream=always"]),
    (
        "qlora lean, 8-bit activations streamed",
        "qlora",
        &["train.activations=lean", "train.activation_storage=int8", "train.stream=always"],
    ),
    (
        "qlora least",
        "qlora",
        &["train.activations=recompute", "train.stream=always", "train.optimizer=adamw8bit"],
    ),
    ("full keep", "full", &[]),
    ("full 8-bit optimizer", "full", &["train.optimizer=adamw8bit"]),
    ("full paged optimizer", "full", &["train.optimizer=paged_adamw"]),
    ("full lean, paged optimizer", "full", &["train.optimizer=paged_adamw", "train.activations=lean"]),
    ("full bf16 weights", "full", &["train.optimizer=paged_adamw", "train.weights=bf16"]),
    (
        "full bf16 weights, layer by layer",
        "full",
        &["train.optimizer=paged_adamw", "train.weights=bf16", "train.max_grad_norm=0"],
    ),
];

/// Ways that are run once more inside a hard limit of the system at what they are planned to need.
const CAPPED: [(&str, &str, &[&str]); 4] = [
    ("qlora keep, capped", "qlora", &[]),
    ("qlora streamed, capped", "qlora", &["train.stream=always"]),
    ("full paged optimizer, capped", "full", &["train.optimizer=paged_adamw"]),
    ("full bf16 weights, capped", "full", &["train.optimizer=paged_adamw", "train.weights=bf16"]),
];

/// The same for the large model.
const LARGE: [(&str, &str, &[&str]); 8] = [
    ("1.1B lora", "lora", &[]),
    ("1.1B lora streamed", "lora", &["train.stream=always"]),
    ("1.1B qlora", "qlora", &[]),
    ("1.1B qlora streamed", "qlora", &["train.stream=always"]),
    (
        "1.1B qlora 8-bit activations streamed",
        "qlora",
        &["train.activation_storage=int8", "train.stream=always"],
    ),
    ("1.1B lora recompute", "lora", &["train.activations=recompute"]),
    ("1.1B qlora recompute", "qlora", &["train.activations=recompute"]),
    ("1.1B qlora recompute streamed", "qlora", &["train.activations=recompute", "train.stream=always"]),
];

/// Bytes of a run.
struct Peak {
    planned: f64,
    /// With what the system reads ahead.
    needs: f64,
    peak: f64,
    /// Whether it ran inside a limit.
    capped: bool,
    /// Seconds of the last step.
    seconds: f64,
    losses: Vec<f64>,
}

impl Bench {
    /// A line for each way; how many missed.
    #[allow(clippy::print_stdout)]
    pub(super) fn memory(&self) -> usize {
        let mut missed = 0;
        println!("{:<40} {:>12} {:>11} {:>6} {:>7}", "run", "predicted MB", "measured MB", "share", "s/step");
        let mut line = |name: &str, outcome: Result<Peak, Failure>| match outcome {
            Ok(Peak { planned: predicted, peak: measured, seconds, capped, .. }) => {
                let share = measured / predicted;
                // Inside a limit the system takes pages of files away, so a peak may be lower.
                let least = if capped { 0.0 } else { LEAST };
                let word = if (least..=1.0).contains(&share) { "" } else { "  MISSED" };
                missed += (!word.is_empty()) as usize;
                let [p, m] = [predicted, measured].map(|bytes| bytes / 1e6);
                println!("{name:<40} {p:>12.0} {m:>11.0} {:>5.0}% {seconds:>7.2}{word}", 100.0 * share);
            }
            Err(failure) => {
                missed += 1;
                println!("FAIL {name}: {}", failure.0);
            }
        };
        let chosen = |name: &str| cases::wanted(&self.options, name);
        for (name, method, set) in SMALL.iter().filter(|s| chosen(s.0)) {
            line(name, self.peak_of(&self.model, Workload::Fixed, method, set, None));
        }
        for (name, method, set) in CAPPED.iter().filter(|s| chosen(s.0)) {
            line(name, self.capped(method, set));
        }
        if self.options.large {
            match large::folder(&self.options.work, &self.model) {
                Err(failure) => line("1.1B", Err(failure)),
                Ok(model) => {
                    for (name, method, set) in LARGE.iter().filter(|s| chosen(s.0)) {
                        line(name, self.peak_of(&model, Workload::Long, method, set, None));
                    }
                }
            }
        }
        missed
    }

    /// A run that gets no more from the system than another one like it was planned to need.
    fn capped(&self, method: &str, set: &[&str]) -> Result<Peak, Failure> {
        let free = self.peak_of(&self.model, Workload::Fixed, method, set, None)?;
        let limit = Limit::new(free.needs as u64)?;
        let capped = self.peak_of(&self.model, Workload::Fixed, method, set, Some(&limit))?;
        if capped.losses != free.losses {
            return Err(Failure(format!("losses {:?} became {:?}", free.losses, capped.losses)));
        }
        Ok(capped)
    }

    /// Predicted and measured bytes of a run, inside a limit or not.
    fn peak_of(
        &self,
        model: &Path,
        workload: Workload,
        method: &str,
        set: &[&str],
        limit: Option<&Limit>,
    ) -> Result<Peak, Failure> {
        let rows = work::write(workload, model, STEPS, &self.options.work)?;
        let run = self.run_folder()?;
        let mut settings = ours::settings(method, "bf16", workload, &rows, model, self.threads);
        settings.extend(set.iter().map(|s| s.to_string()));
        let mut command = self.ours.training(&run, &settings)?;
        command.args(["--isa", self.isa.name()]);
        let out = match limit {
            Some(limit) => limit.run(&command).output()?,
            None => command.output()?,
        };
        let text = String::from_utf8_lossy(&out.stderr);
        let events: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let start = events.iter().find(|e| e["event"] == "start");
        let last = || Failure(text.lines().last().unwrap_or("no start was told").to_string());
        let start = start.ok_or_else(last)?;
        if !out.status.success() {
            return Err(Failure(format!("{}: {}", out.status, last().0)));
        }
        let done: Value = serde_json::from_slice(&out.stdout)?;
        let (planned, needs) = measured::planned(start);
        let steps = events.iter().filter(|e| e["event"] == "step");
        let seconds = steps.clone().filter_map(|e| e["seconds"].as_f64()).next_back().unwrap_or(f64::NAN);
        Ok(Peak {
            seconds,
            capped: limit.is_some(),
            planned,
            needs,
            peak: number(&done, "peak_rss_bytes")?,
            losses: steps.filter_map(|e| e["loss"].as_f64()).collect(),
        })
    }
}
