//! `cargo xtask <task>`: checks against golden fixtures.

use std::path::PathBuf;
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
}

fn main() -> ExitCode {
    let ok = match Args::parse().task {
        Task::Golden { dirs } => golden(&dirs),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[allow(clippy::print_stdout)]
fn golden(dirs: &[PathBuf]) -> bool {
    let (mut passed, mut failed) = (0, 0);
    for dir in dirs {
        let cases = xtask::golden::find(dir);
        if cases.is_empty() {
            println!("FAIL {}: no golden case in it", dir.display());
            failed += 1;
        }
        for case in cases {
            let report = xtask::golden::run(&case);
            println!("{report}");
            if report.passed() { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}
