//! `cargo xtask <task>`: checks against golden fixtures, the built-in model.

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
    /// Check folders of golden fixtures (or single cases of one) and print a line for each case.
    Golden {
        /// Folders, searched for cases.
        #[arg(required = true)]
        dirs: Vec<PathBuf>,
    },
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
    let ok = match Args::parse().task {
        Task::Golden { dirs } => golden(&dirs),
        Task::TinyModel { work, out } => tiny_model(&work, &out),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
fn tiny_model(work: &Path, out: &Path) -> bool {
    let facts = Path::new("crates/ferrotune-cli/data/us-gaap-concepts.jsonl");
    let made = xtask::tiny_model::make(facts, work, out);
    if let Err(e) = &made {
        eprintln!("error: {e}");
    }
    made.is_ok()
}
