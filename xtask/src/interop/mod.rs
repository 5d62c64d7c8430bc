//! `cargo xtask interop`: the real PEFT, transformers and bitsandbytes read what ferrotune writes, and the other way round.
//!
//! The golden checks compare with numbers that were written down once; this runs the reference stack itself, beside the
//! program that a user runs. It is no part of the tests, since it needs a Python environment of several gigabytes.

mod adapters;
mod four_bit;
mod training;

use std::path::PathBuf;

use crate::golden::Report;

pub(crate) use crate::golden::Failure;
use crate::shared::ours::Ours;
use crate::shared::python::Python;

/// What the user chose.
pub struct Options {
    /// A Python interpreter that has the packages.
    pub python: Option<PathBuf>,
    /// Folder for the environment, models and results.
    pub work: PathBuf,
    /// SmolLM2-135M as a Hugging Face folder in f32.
    pub model: Option<PathBuf>,
    /// Fewer cases, and no training of SmolLM2.
    pub quick: bool,
    /// The reference stack is given a small error, so that every line must fail.
    pub plant: bool,
}

/// What every check uses.
pub(crate) struct Bench {
    options: Options,
    python: Python,
    ours: Ours,
}

impl Bench {
    /// An empty folder below the working folder.
    fn folder(&self, name: &str) -> Result<PathBuf, Failure> {
        let folder = self.options.work.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

/// Runs every check and prints a line for each case; whether all passed.
#[allow(clippy::print_stdout)]
pub fn run(options: Options) -> bool {
    let bench = match prepare(options) {
        Ok(bench) => bench,
        Err(failure) => {
            println!("FAIL interop: {}", failure.0);
            return false;
        }
    };
    let mut failed = 0;
    let mut passed = 0;
    let mut print = |report: Report| {
        println!("{report}");
        if report.passed() { passed += 1 } else { failed += 1 }
    };
    type Check = fn(&Bench, &mut dyn FnMut(Report)) -> Result<(), Failure>;
    let mut checks: Vec<(&str, Check)> = vec![("adapters", adapters::check), ("four_bit", four_bit::check)];
    if !bench.options.quick {
        checks.push(("training", training::check));
    }
    for (name, check) in checks {
        if let Err(failure) = check(&bench, &mut print) {
            print(Report::failed(name.to_string(), failure));
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

#[allow(clippy::print_stdout)]
fn prepare(mut options: Options) -> Result<Bench, Failure> {
    std::fs::create_dir_all(&options.work)?;
    // Python and the program run in other folders.
    options.work = options.work.canonicalize()?;
    let python = Python::prepare(options.python.as_deref(), &options.work)?;
    println!("reference: {}", python.versions());
    let ours = Ours::build()?;
    println!("ferrotune: {}", ours.describe());
    Ok(Bench { options, python, ours })
}
