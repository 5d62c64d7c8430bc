//! Our side: the program as a user runs it, and logits from the library, which the program does not print.

use std::path::{Path, PathBuf};
use std::process::Command;

use ferrotune::formats::Checkpoint;
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::peft;
use ferrotune::model::{Decoder, Params, Pass, Tokens};
use ferrotune_kernels::ops::attention::Segment;
use ferrotune_kernels::{Device, Precision};
use serde_json::{Value, json};

use super::python::output;
use super::rows::Row;
use crate::golden::Failure;

/// The program, built from this workspace.
pub(crate) struct Ours {
    binary: PathBuf,
    dev: Device,
}

impl Ours {
    /// Builds it in the profile of this program.
    pub(crate) fn build() -> Result<Self, Failure> {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "ferrotune-cli", "--message-format", "json"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        // What cargo tells the package that it runs is not meant for the packages below: build scripts that look at it
        // would run again, and all that depends on them be compiled again, each time.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&name);
            }
        }
        let text = output(build.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")))?;
        let binary = executable(&text).ok_or_else(|| Failure("cargo names no executable".into()))?;
        Ok(Ours { binary, dev: Device::cpu(None, None)? })
    }

    /// Version and path.
    pub(crate) fn describe(&self) -> String {
        format!("{} in {}", env!("CARGO_PKG_VERSION"), self.binary.display())
    }

    /// The program itself.
    #[cfg(unix)]
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// The program with the options that every call has.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["--json", "--offline"]);
        command
    }

    /// Runs a command; its JSON.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Value, Failure> {
        Ok(serde_json::from_str(&output(self.command().args(arguments))?)?)
    }

    /// A run of `train` into the folder `run`: rows of token ids in their order, one rate, what the overrides say.
    pub(crate) fn training(&self, run: &Path, overrides: &[String]) -> Result<Command, Failure> {
        let file = run.with_extension("yaml");
        let fixed = ["train.schedule=constant", "train.warmup=0", "data.format=tokens", "data.shuffle=false"];
        let mut command = self.command();
        command.arg("train").arg(&file);
        for text in fixed.into_iter().chain(overrides.iter().map(String::as_str)) {
            command.args(["--set", text]);
        }
        std::fs::write(&file, format!("output: {{dir: {}}}\n", json!(run)))?;
        Ok(command)
    }

    /// Trains; the losses of the steps.
    pub(crate) fn train(&self, run: &Path, overrides: &[String]) -> Result<Vec<f64>, Failure> {
        output(&mut self.training(run, overrides)?)?;
        losses(&std::fs::read_to_string(run.join("metrics.jsonl"))?)
    }

    /// The loss that `eval` gives for a model (and an adapter) on a file of rows.
    pub(crate) fn eval(&self, model: &Path, adapter: Option<&Path>, rows: &Path) -> Result<f64, Failure> {
        let text = [model, rows].map(|p| p.display().to_string());
        let adapter = adapter.map(|p| p.display().to_string());
        let mut arguments = vec!["eval", &text[0], "--data", &text[1], "--precision", "f32"];
        if let Some(adapter) = &adapter {
            arguments.extend(["--adapter", adapter]);
        }
        let result = self.run(&arguments)?;
        super::python::number(&result, "eval_loss")
    }

    /// A model as its files have it, in the parity mode.
    pub(crate) fn open(&self, folder: &Path) -> Result<Opened<'_>, Failure> {
        let (model, none) = load(&self.dev, &Checkpoint::open(folder)?, BaseStorage::AsStored, 256)?;
        Ok(Opened { dev: &self.dev, model, none })
    }

    /// The device.
    pub(crate) fn dev(&self) -> &Device {
        &self.dev
    }
}

/// A model in memory.
pub(crate) struct Opened<'a> {
    dev: &'a Device,
    pub(crate) model: Decoder,
    none: Params,
}

impl Opened<'_> {
    /// Logits of each row by itself, one after the other, with an adapter or without.
    pub(crate) fn logits(&self, adapter: Option<&Path>, rows: &[Row]) -> Result<Vec<f32>, Failure> {
        let adapter = adapter.map(|folder| peft::load(self.dev, folder, &self.model)).transpose()?;
        let pass = Pass {
            dev: self.dev,
            precision: Precision::F32,
            params: adapter.as_ref().map_or(&self.none, |a| &a.params),
            adapted: adapter.as_ref().map(|a| &a.adapted),
            dropout: None,
        };
        let one = |row: &Row| {
            let all: Vec<u32> = (0..row.ids.len() as u32).collect();
            let segments = [Segment::own(0, row.ids.len())];
            let x =
                self.model.forward(&pass, Tokens { ids: &row.ids, positions: &all, segments: &segments })?;
            Ok::<_, Failure>(self.model.logits(&pass, &x, &all)?.host_f32().to_vec())
        };
        Ok(rows.iter().map(one).collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// The executable in cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    let all = messages.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    let named = all.filter_map(|m| m["executable"].as_str().map(PathBuf::from));
    named.into_iter().next_back()
}

/// Losses of the optimizer steps in a `metrics.jsonl`.
fn losses(text: &str) -> Result<Vec<f64>, Failure> {
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(lines.iter().filter_map(|l| l["loss"].as_f64()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_those_of_steps() {
        let text = "{\"step\":1,\"loss\":2.5,\"lr\":1e-3}\n{\"step\":1,\"eval_loss\":9.0}\n{\"step\":2,\"loss\":2.25}\n";
        assert_eq!(losses(text).map_err(|f| f.0), Ok(vec![2.5, 2.25]));
        assert!(losses("{\"loss\":").is_err());
    }

    #[test]
    fn cargo_says_where_the_program_is() {
        let text =
            "{\"reason\":\"a\",\"executable\":null}\n{\"executable\":\"/t/ferrotune\"}\n{\"reason\":\"end\"}";
        assert_eq!(executable(text), Some(PathBuf::from("/t/ferrotune")));
        assert_eq!(executable("no json"), None);
    }
}
