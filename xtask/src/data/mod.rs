//! `cargo xtask data`: many rows on their way to tokens and steps, time and memory, and a run that is killed in the middle of
//! them. The peer is what users of transformers do: `datasets` with a fast tokenizer.

mod rows;
mod watched;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::golden::Failure;
use crate::shared::ours::Ours;
use crate::shared::python::{Python, number};
use crate::shared::smollm2;
use rows::Chats;
use watched::{Took, run as watch};

/// Rows of the comparison with the peer: its rate does not depend on their number.
const COMPARED: usize = 100_000;

/// Steps of a whole epoch, and the one that a run is killed behind.
const STEPS: usize = 100;
const KILLED_AT: usize = 50;

/// The tiny model that the binary carries.
const BUILTIN: &str = "../crates/ferrotune-cli/builtin";

/// How long a killed run may take to get there.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What the user chose.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Number of rows.
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: usize,
    /// Folder for rows, tokens and runs.
    #[arg(long, default_value = "target/data")]
    pub work: PathBuf,
    /// Python interpreter that has datasets, tokenizers and transformers; without one there is no peer.
    #[arg(long)]
    pub python: Option<PathBuf>,
}

/// Measures and prints a table; whether everything ran, and the killed run ended like the other.
#[allow(clippy::print_stdout)]
pub fn run(options: &Options) -> bool {
    let done = prepare(options).and_then(|bench| bench.all());
    if let Err(failure) = &done {
        println!("FAIL data: {}", failure.0);
    }
    done.is_ok()
}

struct Bench {
    ours: Ours,
    work: PathBuf,
    gguf: PathBuf,
    rows: usize,
    python: Option<Python>,
}

#[allow(clippy::print_stdout)]
fn prepare(options: &Options) -> Result<Bench, Failure> {
    std::fs::create_dir_all(&options.work)?;
    let work = options.work.canonicalize()?;
    let ours = Ours::build()?;
    println!("ferrotune {}\n", ours.describe());
    let gguf = smollm2::gguf(&Python::of_system(), &work)?;
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../LICENSE"))?;
    let chats = Chats::new(&text);
    for rows in [COMPARED.min(options.rows), options.rows] {
        let (lines, table) = (file(&work, rows, "jsonl"), file(&work, rows, "parquet"));
        if !table.exists() {
            chats.write_jsonl(&lines, rows)?;
            chats.write_parquet(&table, rows)?;
        }
        println!("{rows} rows: {} MB of JSON Lines, {} MB of Parquet", megabytes(&lines), megabytes(&table));
    }
    chats.write_short(&file(&work, options.rows, "short.jsonl"), options.rows)?;
    let python = options.python.as_deref().map(Python::named);
    Ok(Bench { ours, work, gguf, rows: options.rows, python })
}

fn file(work: &Path, rows: usize, extension: &str) -> PathBuf {
    work.join(format!("rows-{rows}.{extension}"))
}

fn megabytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |about| about.len() / 1_000_000)
}

#[allow(clippy::print_stdout)]
fn say(what: &str, took: Took) {
    let peak = took.peak_bytes.map_or("unknown".to_string(), |bytes| format!("{} MB", bytes / 1_000_000));
    println!("| {what} | {:.1} s | {peak} |", took.seconds);
}

#[allow(clippy::print_stdout)]
impl Bench {
    fn all(&self) -> Result<(), Failure> {
        println!("\n| what | time | peak |\n|---|---|---|");
        let few = COMPARED.min(self.rows);
        if let Some(python) = &self.python {
            self.peer(python, few)?;
        }
        for (rows, extension) in
            [(few, "jsonl"), (few, "parquet"), (self.rows, "jsonl"), (self.rows, "parquet")]
        {
            let data = file(&self.work, rows, extension);
            self.forget()?;
            let (tokens, took) = self.tokenize(&data)?;
            let rate = rows as f64 / took.seconds;
            say(&format!("{rows} rows of {extension}, {tokens} tokens, {rate:.0} rows/s, first start"), took);
            say("the same, second start", self.tokenize(&data)?.1);
        }
        let step = ["train.max_steps=1", "train.batch_rows=4"].map(String::from);
        let kept = file(&self.work, self.rows, "parquet");
        say("one training step of 4 of these rows, third start", self.train("step", &kept, &step)?);
        let data = file(&self.work, self.rows, "jsonl");
        self.forget()?;
        let streamed = step.into_iter().chain(["data.streaming=true".to_string()]).collect::<Vec<_>>();
        say(
            "one training step of the jsonl with data.streaming, first start",
            self.train("streamed", &data, &streamed)?,
        );
        self.killed()
    }

    /// Removes the tokens that were kept.
    fn forget(&self) -> Result<(), Failure> {
        let kept = self.work.join("cache");
        if kept.exists() {
            std::fs::remove_dir_all(&kept)?;
        }
        Ok(std::fs::create_dir_all(kept)?)
    }

    /// A command whose cache is the benchmark's own.
    fn command(&self) -> Command {
        let mut command = self.ours.command();
        command.env("XDG_CACHE_HOME", self.work.join("cache"));
        command
    }

    /// Makes all rows into tokens and shows one; the number of tokens.
    fn tokenize(&self, data: &Path) -> Result<(usize, Took), Failure> {
        let run = self.work.join("preview.yaml");
        let file = json!({"model": {"base": self.gguf}, "data": {"train": data, "eval": "none"}});
        std::fs::write(&run, file.to_string())?;
        let (out, took) = watch(self.command().arg("preview").arg(&run).args(["-n", "1"]))?;
        let report: Value = serde_json::from_str(&out)?;
        Ok((number(&report["report"], "tokens")? as usize, took))
    }

    /// Trains into a new folder.
    fn train(&self, name: &str, data: &Path, settings: &[String]) -> Result<Took, Failure> {
        Ok(watch(&mut self.training(name, data, settings)?)?.1)
    }

    fn training(&self, name: &str, data: &Path, settings: &[String]) -> Result<Command, Failure> {
        let folder = self.work.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        let run = folder.with_extension("yaml");
        let file = json!({
            "model": {"base": self.gguf}, "data": {"train": data, "eval": "none"}, "output": {"dir": folder},
        });
        std::fs::write(&run, file.to_string())?;
        let mut command = self.command();
        command.arg("train").arg(run);
        command.args(settings.iter().flat_map(|text| ["--set", text]));
        Ok(command)
    }

    /// An epoch of all rows, and the same killed in its middle and resumed.
    fn killed(&self) -> Result<(), Failure> {
        let data = &file(&self.work, self.rows, "short.jsonl");
        let settings = [
            format!("model.base={}", json!(Path::new(env!("CARGO_MANIFEST_DIR")).join(BUILTIN))),
            "data.supervise=all".to_string(),
            format!("train.batch_rows={}", self.rows.div_ceil(STEPS)),
            format!("output.checkpoint_every={KILLED_AT}"),
        ];
        say(
            &format!("an epoch of {} rows of two words, the built-in model", self.rows),
            self.train("whole", data, &settings)?,
        );
        let mut command = self.training("killed", data, &settings)?;
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (start, folder) = (Instant::now(), self.work.join("killed"));
        let reached = || metrics(&folder).is_ok_and(|steps| steps.len() > KILLED_AT);
        while !reached() {
            if start.elapsed() > PATIENCE || child.try_wait()?.is_some() {
                child.kill()?;
                return Err(Failure(format!("step {} was not reached", KILLED_AT + 1)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        let mut resumed = self.command();
        resumed.arg("train").arg(folder.with_extension("yaml")).arg("--resume");
        resumed.args(settings.iter().flat_map(|text| ["--set", text]));
        say(
            &format!("the same, killed behind step {KILLED_AT} of {STEPS}: the rest of it"),
            watch(&mut resumed)?.1,
        );
        let whole = self.work.join("whole");
        let bytes = |folder: &Path| std::fs::read(folder.join("adapter_model.safetensors"));
        if metrics(&whole)? != metrics(&folder)? || bytes(&whole)? != bytes(&folder)? {
            return Err(Failure("the resumed run differs from the whole one".into()));
        }
        println!("\nthe resumed run has the losses and the adapter's bytes of the whole one");
        Ok(())
    }

    fn peer(&self, python: &Python, rows: usize) -> Result<(), Failure> {
        let (start, model, out) = (self.work.join("start"), self.work.join("model"), self.work.join("peer"));
        if !model.exists() {
            smollm2::start(&self.ours, &self.gguf, &start)?;
            smollm2::unpack(&self.ours, &self.gguf, &start, &model, "bf16")?;
        }
        if out.exists() {
            std::fs::remove_dir_all(&out)?;
        }
        std::fs::create_dir_all(&out)?;
        let job = json!({
            "model": model, "rows": file(&self.work, rows, "jsonl"), "cache": out.join("cache"), "out": out,
            "processes": std::thread::available_parallelism()?.get(),
        });
        let found = python.script("bench/token_ids.py", &out, &job)?;
        let (seconds, tokens) = (number(&found, "seconds")?, number(&found, "tokens")?);
        let rate = rows as f64 / seconds;
        let versions = found["versions"].as_object().into_iter().flatten();
        let versions: Vec<String> = versions
            .map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default()))
            .collect();
        println!(
            "| {rows} rows of jsonl, {tokens} tokens, {rate:.0} rows/s, {} | {seconds:.1} s | |",
            versions.join(", ")
        );
        Ok(())
    }
}

/// Step and loss of each step of a run.
fn metrics(folder: &Path) -> Result<Vec<(u64, f64)>, Failure> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl"))?;
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(lines.filter_map(|line| Some((line["step"].as_u64()?, line["loss"].as_f64()?))).collect())
}
