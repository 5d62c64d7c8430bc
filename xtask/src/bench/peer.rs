//! The peer: transformers, PEFT and bitsandbytes in a plain PyTorch loop, each in the better of its settings.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use ferrotune_kernels::cpu::Isa;
use serde_json::{Value, json};

use super::cases::Case;
use super::measured::{Measured, differs, fastest};
use super::work::Written;
use super::{ALPHA, RANK};
use crate::golden::Failure;
use crate::shared::python::{Python, number};

/// How the peer runs a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Setting {
    /// Type of its weights and products.
    dtype: &'static str,
    /// Layers are computed again in the backward.
    checkpointing: bool,
}

impl Setting {
    /// The type.
    pub(super) fn dtype(self) -> &'static str {
        self.dtype
    }

    /// In the table's words.
    pub(super) fn describe(self) -> String {
        format!("{}{}", self.dtype, if self.checkpointing { " checkpointing" } else { "" })
    }
}

/// The settings to try. Against our bf16 it may run in f32 too, which is faster on many CPUs.
pub(super) fn settings(precision: &'static str, quick: bool) -> Vec<Setting> {
    let setting = |dtype, checkpointing| Setting { dtype, checkpointing };
    let mut all = vec![setting(precision, false)];
    if precision != "f32" {
        all.push(setting("f32", false));
    }
    if !quick {
        all.push(setting(precision, true));
    }
    all
}

/// Variables that hold torch, oneDNN and MKL to an instruction set. bitsandbytes has no such switch: it takes the best.
fn environment(isa: Isa) -> Value {
    match isa {
        Isa::Avx2 => json!({
            "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"
        }),
        Isa::Avx512 => json!({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}),
        Isa::Portable | Isa::Neon | Isa::Avx512Bf16 => json!({}),
    }
}

/// Runs a case in a process of its own.
pub(super) fn train(
    python: &Python,
    case: &Case,
    setting: Setting,
    rows: &Written,
    model: &Path,
    isa: Isa,
    out: &Path,
) -> Result<Measured, Failure> {
    let job = json!({
        "out": out, "model": model, "rows": rows.path, "rows_of_step": case.workload.rows_of_step(),
        "method": case.method.name(), "dtype": setting.dtype, "checkpointing": setting.checkpointing,
        "lr": case.method.lr(), "rank": RANK, "alpha": ALPHA, "threads": case.threads,
        "environment": environment(isa), "started": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64(),
    });
    let results = python.script("bench/peer.py", out, &job)?;
    let steps: &[Value] = results["steps"].as_array().map_or(&[], Vec::as_slice);
    Ok(Measured {
        peak_bytes: number(&results, "peak_rss_bytes")?,
        trainable: number(&results, "trainable_parameters")?,
        load_seconds: number(&results, "load_seconds")?,
        ..Measured::of_steps(steps)?
    })
}

/// The peer's runs of a case.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Runs that did our work.
    runs: Vec<(Setting, Measured)>,
    /// Settings that did not run or did other work, and why.
    pub(super) refused: Vec<String>,
}

impl Peer {
    /// Takes in a run, if it did the same work as ours.
    pub(super) fn add(
        &mut self,
        setting: Setting,
        run: Result<Measured, Failure>,
        ours: &Measured,
        only_first: bool,
    ) {
        let refused = match run {
            Ok(run) => match differs(ours, &run, only_first) {
                None => return self.runs.push((setting, run)),
                // Its speed is still told: a faster setting that is left out must be seen.
                Some(what) => format!("{what}, so {:.0} tokens/s do not count", run.speed()),
            },
            Err(failure) => failure.0,
        };
        self.refused.push(format!("{}: {refused}", setting.describe()));
    }

    /// The fastest run and its setting.
    pub(super) fn fastest(&self) -> Option<&(Setting, Measured)> {
        self.runs.iter().max_by(|a, b| a.1.speed().total_cmp(&b.1.speed()))
    }

    /// The run that took the least memory and its setting.
    pub(super) fn leanest(&self) -> Option<&(Setting, Measured)> {
        self.runs.iter().min_by(|a, b| a.1.peak_bytes.total_cmp(&b.1.peak_bytes))
    }

    /// How many times its best speed ours is.
    pub(super) fn speed_ratio(&self, ours: &[Measured]) -> Option<f64> {
        Some(fastest(ours)?.speed() / self.fastest()?.1.speed())
    }

    /// Which share of its least memory ours takes.
    pub(super) fn memory_ratio(&self, ours: &[Measured]) -> Option<f64> {
        Some(fastest(ours)?.peak_bytes / self.leanest()?.1.peak_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::measured::tests::run;
    use super::*;

    #[test]
    fn each_ratio_is_taken_against_the_better_setting() {
        let ours = [run(1.0, 1e9), run(0.5, 1e9)];
        let mut peer = Peer::default();
        for (setting, seconds, bytes) in [(0, 2.0, 4e9), (1, 1.0, 8e9), (2, 4.0, 2e9)] {
            peer.add(settings("bf16", false)[setting], Ok(run(seconds, bytes)), &ours[0], false);
        }
        assert_eq!((peer.speed_ratio(&ours), peer.memory_ratio(&ours)), (Some(2.0), Some(0.5)));
        assert_eq!(peer.fastest().map(|r| r.0.describe()), Some("f32".into()));
        assert_eq!(peer.leanest().map(|r| r.0.describe()), Some("bf16 checkpointing".into()));
    }

    #[test]
    fn other_work_gives_no_ratio() {
        let ours = [run(1.0, 1e9)];
        let mut other = run(1.0, 1e9);
        other.losses[0] = 4.0;
        let mut peer = Peer::default();
        peer.add(settings("f32", true)[0], Ok(other), &ours[0], false);
        peer.add(settings("f32", true)[0], Err(Failure("out of memory".into())), &ours[0], false);
        assert_eq!((peer.speed_ratio(&ours), peer.refused.len()), (None, 2));
    }

    #[test]
    fn a_quick_run_tries_no_checkpointing() {
        assert_eq!(settings("bf16", true).len(), 2);
        assert_eq!(settings("f32", true).len(), 1);
        assert!(settings("f32", false).iter().any(|s| s.checkpointing));
    }
}
