//! The runs that are disturbed: their files, how they are started, and what they leave.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use ferrotune::results::manifest::{self, Verdict};
use ferrotune_kernels::Threads;
use serde_json::{Value, json};

use crate::golden::Failure;
use crate::shared::ours::Ours;

/// Checkpoints that a run keeps.
pub(super) const KEEP: usize = 2;

/// Steps of a run.
pub(super) const STEPS: usize = 16;

/// Rows of a step.
const BATCH: usize = 12;

/// No run here takes this long; one that does hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A kind of run.
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// Overrides of the run file.
    sets: &'static [&'static str],
    /// The file with the result.
    result: &'static str,
    /// Steps from one checkpoint to the next.
    pub(super) every: usize,
}

const ADAPTER: &str = "adapter_model.safetensors";
const MODEL: &str = "model.safetensors";

const fn kind(name: &'static str, sets: &'static [&'static str], result: &'static str, every: usize) -> Kind {
    Kind { name, sets, result, every }
}

/// Every way of keeping moments with every way of keeping weights.
pub(super) const KINDS: [Kind; 8] = [
    kind("lora adamw", &["method.kind=lora", "method.dropout=0.1"], ADAPTER, 1),
    kind("qlora adamw", &["method.kind=qlora"], ADAPTER, 1),
    kind("lora adamw8bit", &["method.kind=lora", "train.optimizer=adamw8bit"], ADAPTER, 2),
    kind("lora paged_adamw", &["method.kind=lora", "train.optimizer=paged_adamw"], ADAPTER, 1),
    kind("full adamw", &["method.kind=full"], MODEL, 1),
    kind("full adamw8bit", &["method.kind=full", "train.optimizer=adamw8bit"], MODEL, 2),
    kind(
        "full paged_adamw, layer by layer",
        // One micro-batch a step, as the rows are short.
        &["method.kind=full", "train.optimizer=paged_adamw", "train.max_grad_norm=0"],
        MODEL,
        1,
    ),
    kind("dora adamw", &["method.kind=lora", "method.dora=true"], ADAPTER, 1),
];

/// What a run computed, to be compared bit for bit.
#[derive(PartialEq)]
pub(super) struct Results {
    result: Vec<u8>,
    losses: Vec<(u64, u64)>,
}

impl Results {
    /// What differs from the reference, in words.
    pub(super) fn differences(&self, reference: &Results) -> Option<&'static str> {
        match (self.result == reference.result, self.losses == reference.losses) {
            (true, true) => None,
            (true, false) => Some("the losses differ from those of the uninterrupted run"),
            (false, true) => Some("the result differs from that of the uninterrupted run"),
            (false, false) => Some("result and losses differ from those of the uninterrupted run"),
        }
    }
}

/// A folder with rows and a run file, where one kind of run is started again and again.
pub(super) struct Site<'a> {
    ours: &'a Ours,
    dir: PathBuf,
    pub(super) kind: &'static Kind,
}

impl<'a> Site<'a> {
    /// An empty folder `name` in `work`, and its files.
    pub(super) fn new(ours: &'a Ours, work: &Path, name: &str, kind: &'static Kind) -> Result<Self, Failure> {
        let dir = work.join(name);
        clear(&dir)?;
        fs::create_dir_all(&dir)?;
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden/models/llama3_rope/model");
        let run = json!({
            "model": {"base": base.canonicalize()?},
            "method": {"rank": 4, "alpha": 8},
            "data": {"train": "rows.jsonl", "max_length": 128},
            "train": {"epochs": 50, "max_steps": STEPS, "batch_rows": BATCH, "lr": 1e-2, "precision": "f32"},
            "output": {"checkpoint_every": kind.every, "keep_checkpoints": KEEP},
        });
        fs::write(dir.join("run.json"), run.to_string())?;
        // Epochs end in the middle of a run, and the last step of one is shorter.
        fs::write(dir.join("rows.jsonl"), (0..50).map(chat).collect::<String>())?;
        Ok(Site { ours, dir, kind })
    }

    /// A run folder.
    pub(super) fn run(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The arguments that start the run in `out`, or go on with it.
    pub(super) fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let dir = format!("output.dir={out}");
        let sets =
            [dir.as_str()].into_iter().chain(self.kind.sets.iter().copied()).chain(more.iter().copied());
        let sets = sets.flat_map(|set| ["--set", set]);
        ["--offline", "train", "run.json", "--resume"].into_iter().chain(sets).map(String::from).collect()
    }

    /// A command in this folder, with a cache of its own.
    pub(super) fn prepared(&self, mut command: Command) -> Command {
        command.current_dir(&self.dir).env("FERROTUNE_CACHE", self.dir.join("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Forgets the run `out` and all that the program kept for it.
    pub(super) fn forget(&self, out: &str) -> Result<(), Failure> {
        clear(&self.run(out))?;
        clear(&self.dir.join("cache"))
    }

    /// Starts or resumes the run, and kills it if it has not ended before.
    pub(super) fn start(&self, out: &str, more: &[&str], kill: Option<Kill>) -> Result<Ended, Failure> {
        let mut command = Command::new(self.ours.binary());
        command.arg("--json").args(self.arguments(out, more));
        let log = self.dir.join("stderr");
        let begin = Instant::now();
        let started = SystemTime::now();
        let child = self.prepared(command).stderr(File::create(&log)?).spawn()?;
        let checkpoints = self.run(out).join("checkpoints");
        let now = |age: Duration| match kill {
            Some(kill) => age >= kill.delay && (!kill.in_checkpoint || is_written(&checkpoints, started)),
            None => age >= PATIENCE,
        };
        let status = wait(child, now)?;
        let text = fs::read_to_string(&log)?;
        if status.is_none() && kill.is_none() {
            return Err(Failure(format!("{}: no end after {} s", self.kind.name, PATIENCE.as_secs())));
        }
        let events = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Ended { status, events, seconds: begin.elapsed().as_secs_f64(), text })
    }

    /// Runs to the end; anything but success is a failure.
    pub(super) fn finish(&self, out: &str, more: &[&str]) -> Result<Ended, Failure> {
        let ended = self.start(out, more, None)?;
        match ended.problem() {
            Some(problem) => Err(Failure(format!("{}: {problem}", self.kind.name))),
            None => Ok(ended),
        }
    }

    /// Steps of the checkpoints that are whole, in order.
    pub(super) fn good(&self, out: &str) -> Result<Vec<usize>, Failure> {
        let folder = self.run(out).join("checkpoints");
        let mut steps = Vec::new();
        if !folder.exists() {
            return Ok(steps);
        }
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("step-"));
            if let Some(step) = name.and_then(|n| n.parse().ok())
                && matches!(manifest::verify(&Threads::one(), &path)?, Verdict::Whole)
            {
                steps.push(step);
            }
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// What a run that has ended computed.
    pub(super) fn results(&self, out: &str) -> Result<Results, Failure> {
        let folder = self.run(out);
        let text = fs::read_to_string(folder.join("metrics.jsonl"))?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let pair = |l: &Value| Some((l["step"].as_u64()?, l["loss"].as_f64()?.to_bits()));
        Ok(Results {
            result: fs::read(folder.join(self.kind.result))?,
            losses: lines.iter().filter_map(pair).collect(),
        })
    }
}

/// When a process is killed.
#[derive(Clone, Copy)]
pub(super) struct Kill {
    /// Not before.
    pub(super) delay: Duration,
    /// As soon as it writes a checkpoint then.
    pub(super) in_checkpoint: bool,
}

/// How a process ended.
pub(super) struct Ended {
    /// None if it was killed here.
    pub(super) status: Option<ExitStatus>,
    /// What it said before.
    pub(super) events: Vec<Value>,
    pub(super) seconds: f64,
    text: String,
}

impl Ended {
    /// What is wrong with the way it ended by itself.
    pub(super) fn problem(&self) -> Option<String> {
        let status = self.status.filter(|s| !s.success())?;
        let last: Vec<&str> = self.text.lines().rev().take(2).collect();
        Some(format!("{status}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")))
    }
}

/// What is lost between two looks at the good checkpoints of a run.
pub(super) fn lost(before: &[usize], after: &[usize]) -> Option<String> {
    let fewer = after.len() < before.len().min(KEEP);
    (fewer || after.last() < before.last()).then(|| format!("good checkpoints {before:?} became {after:?}"))
}

/// Removes a folder that may be there.
pub(super) fn clear(folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// Whether a checkpoint is being written by a process that started then: what a killed one left does not count.
fn is_written(checkpoints: &Path, started: SystemTime) -> bool {
    let entries = fs::read_dir(checkpoints).into_iter().flatten().flatten();
    let mut hidden = entries.filter(|e| e.file_name().to_string_lossy().ends_with(".tmp"));
    hidden.any(|e| e.metadata().and_then(|m| m.modified()).is_ok_and(|time| time > started))
}

/// Waits for the end; kills the process and gives `None` if `now` says so of its age before.
fn wait(mut child: Child, now: impl Fn(Duration) -> bool) -> Result<Option<ExitStatus>, Failure> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if now(begin.elapsed()) {
            child.kill()?;
            // It may have ended by itself just before.
            let status = child.wait()?;
            return Ok(status.code().map(|_| status));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn chat(i: usize) -> String {
    let row = json!({"messages": [
        {"role": "user", "content": format!("What comes after {i}?")},
        {"role": "assistant", "content": format!("After {i} comes {}.", i + 1)},
    ]});
    format!("{row}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_or_older_checkpoints_are_a_loss() {
        for (before, after) in [(vec![], vec![]), (vec![1, 2], vec![2, 3]), (vec![1, 2, 3], vec![2, 3])] {
            assert_eq!(lost(&before, &after), None);
        }
        for (before, after) in [(vec![1], vec![]), (vec![1, 2], vec![2]), (vec![2, 3], vec![1, 2])] {
            assert!(lost(&before, &after).is_some(), "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_process_that_goes_on_is_killed() {
        let sleep = |seconds: &str| Command::new("sleep").arg(seconds).spawn().unwrap();
        assert!(wait(sleep("60"), |_| true).unwrap_or_default().is_none());
        assert!(wait(sleep("0"), |age| age > PATIENCE).unwrap_or_default().is_some_and(|s| s.success()));
    }
}
