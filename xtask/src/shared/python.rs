//! The Python environment of the reference stack, and scripts run in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use ferrotune::formats::safetensors::SafeFile;
use serde_json::Value;

use crate::golden::Failure;

/// The versions that the fixtures were made with.
const PINS: [(&str, &str); 6] = [
    ("torch", "2.15.0"),
    ("transformers", "5.23.0"),
    ("peft", "0.21.2"),
    ("bitsandbytes", "0.50.2"),
    ("safetensors", "0.8.0"),
    ("tokenizers", "0.23.3"),
];

/// Prints the version of each package that is named, or nothing where it is missing.
const VERSIONS: &str = "import sys\nfrom importlib import metadata\nfor name in sys.argv[1:]:\n    try:\n        \
                        print(name, metadata.version(name))\n    except metadata.PackageNotFoundError:\n        \
                        print(name)";

/// An interpreter that has the pinned packages.
pub(crate) struct Python {
    interpreter: PathBuf,
}

impl Python {
    /// The interpreter that is named, or one of an environment in `work` that is made if it is missing.
    pub(crate) fn prepare(given: Option<&Path>, work: &Path) -> Result<Self, Failure> {
        let python = match given {
            Some(path) => Python { interpreter: path.to_path_buf() },
            None => Python::build(&work.join("venv"))?,
        };
        let text = output(Command::new(&python.interpreter).args(["-c", VERSIONS]).args(PINS.map(|p| p.0)))?;
        match mismatches(&text) {
            wrong if wrong.is_empty() => Ok(python),
            wrong => Err(Failure(format!("{}: {}", python.interpreter.display(), wrong.join(", ")))),
        }
    }

    /// An interpreter that has what a script needs.
    pub(crate) fn named(interpreter: &Path) -> Self {
        Python { interpreter: interpreter.to_path_buf() }
    }

    /// Whatever Python the system has: enough to fetch a wheel.
    pub(crate) fn of_system() -> Self {
        Python { interpreter: PathBuf::from("python3") }
    }

    /// A new environment, or the one that is there; packages come from where the user's pip takes them.
    #[allow(clippy::print_stdout)]
    fn build(folder: &Path) -> Result<Self, Failure> {
        let interpreter = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        let python = Python { interpreter };
        let ready = folder.join("ready");
        if !ready.exists() {
            println!("making a Python environment in {} (some gigabytes, once)", folder.display());
            output(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
            let pins = PINS.map(|(name, version)| format!("{name}=={version}"));
            output(Command::new(&python.interpreter).args(["-m", "pip", "install", "--quiet"]).args(pins))?;
            std::fs::write(ready, "")?;
        }
        Ok(python)
    }

    /// The pinned versions in a line.
    pub(crate) fn versions(&self) -> String {
        PINS.map(|(name, version)| format!("{name} {version}")).join(", ")
    }

    /// Downloads a wheel of the package index into `folder` and unpacks it there.
    pub(crate) fn unpack_wheel(&self, requirement: &str, folder: &Path) -> Result<(), Failure> {
        let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", requirement];
        output(Command::new(&self.interpreter).args(pip).arg("-d").arg(folder))?;
        for entry in std::fs::read_dir(folder)?.flatten() {
            if entry.path().extension().is_some_and(|e| e == "whl") {
                let mut unpack = Command::new(&self.interpreter);
                output(unpack.args(["-m", "zipfile", "-e"]).arg(entry.path()).arg(folder))?;
            }
        }
        Ok(())
    }

    /// Runs a script of this crate on a job, whose file is written into the job's folder `out`.
    pub(crate) fn script(&self, script: &str, out: &Path, job: &Value) -> Result<Value, Failure> {
        let path = out.join("job.json");
        std::fs::write(&path, format!("{job:#}\n"))?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        output(Command::new(&self.interpreter).arg("-W").arg("ignore").arg(script).arg(path))?;
        Ok(serde_json::from_slice(&std::fs::read(out.join("results.json"))?)?)
    }

    /// Runs a script that also writes tensors; its results and those, from the job's folder `out`.
    pub(crate) fn run(&self, script: &str, out: &Path, job: &Value) -> Result<Answers, Failure> {
        let results = self.script(script, out, job)?;
        Ok(Answers { results, tensors: SafeFile::open(&out.join("tensors.safetensors"))? })
    }
}

/// What a script found.
pub(crate) struct Answers {
    results: Value,
    tensors: SafeFile,
}

impl Answers {
    /// The results of a case; its exception is a failure.
    pub(crate) fn of(&self, case: &str) -> Result<&Value, Failure> {
        let found = self.results.get(case).ok_or_else(|| Failure(format!("the script left out {case}")))?;
        match found["error"].as_str() {
            Some(error) => Err(Failure(error.to_string())),
            None => Ok(found),
        }
    }

    /// Values of a tensor for each row (`GROUP/0`, `GROUP/1`, ...), one after the other.
    pub(crate) fn rows(&self, group: &str, count: usize) -> Result<Vec<f32>, Failure> {
        let rows = (0..count).map(|i| self.tensor(&format!("{group}/{i}")));
        Ok(rows.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Values of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<Vec<f32>, Failure> {
        Ok(self.tensors.f32(name)?.1)
    }
}

/// A number of a result.
pub(crate) fn number(result: &Value, key: &str) -> Result<f64, Failure> {
    result[key].as_f64().ok_or_else(|| Failure(format!("no number {key} in {result}")))
}

/// Runs a program; its standard output. Its last words if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().map_err(|e| Failure(format!("{name}: {e}")))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    let last: Vec<&str> = errors.lines().rev().take(4).collect();
    let last: Vec<&str> = last.into_iter().rev().map(str::trim).collect();
    Err(Failure(format!("{name}: {}: {}", done.status, last.join(" | "))))
}

/// Packages whose version is not the pinned one, in words. A build's own suffix (`+cpu`) is no difference.
fn mismatches(text: &str) -> Vec<String> {
    let found = |name: &str| {
        let line = text.lines().find_map(|l| l.split_once(' ').filter(|(n, _)| *n == name));
        line.map(|(_, version)| version.trim().to_string())
    };
    let wrong = PINS.iter().filter_map(|(name, wanted)| match found(name) {
        None => Some(format!("{name} is missing")),
        Some(v) if v.split('+').next() == Some(wanted) => None,
        Some(v) => Some(format!("{name} is {v}, expected {wanted}")),
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_its_own_or_none_is_named() {
        let good: String = PINS.iter().map(|(name, version)| format!("{name} {version}+cpu\n")).collect();
        assert!(mismatches(&good).is_empty());
        let bad = good.replace("peft 0.21.2+cpu", "peft 0.20.0").replace("torch 2.15.0+cpu", "torch");
        assert_eq!(mismatches(&bad), ["torch is missing", "peft is 0.20.0, expected 0.21.2"]);
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let failed = output(Command::new("cargo").arg("no-such-command-of-cargo"));
        assert!(failed.is_err_and(|f| f.0.contains("no-such-command-of-cargo")));
        assert!(output(&mut Command::new("no-such-program")).is_err());
    }
}
