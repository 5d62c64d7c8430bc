//! The program: parse, run the command, exit with a code that means something.
//!
//! Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted (after a checkpoint).

// A binary has no outside: everything that a sibling module uses is `pub`.
#![allow(unreachable_pub)]

mod args;
mod commands;
mod environment;
mod pages;
mod report;
mod words;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ferrotune_kernels::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap::new(no_memory);

/// What is said where the system refuses memory in the middle of something; nothing can be undone there.
const NO_MEMORY: &str = "error: the system has no more memory for this program (a limit of the shell, the container or \
                         the machine)\nhint: `ferrotune plan` shows what takes less; checkpoints are whole: go on from \
                         the last one with --resume\n";

fn no_memory() {
    // Neither needs memory, and stderr has no buffer.
    let _ = std::io::stderr().write_all(NO_MEMORY.as_bytes());
    std::process::exit(1);
}

/// Fine-tune language models with full fine-tuning, LoRA and QLoRA on the machine you have.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    args: args::Args,
    #[command(subcommand)]
    command: commands::Command,
}

/// A panic that the library turns into an error is told as one.
fn print_panics_that_are_no_errors() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !ferrotune::panics::are_caught() {
            print(panic);
        }
    }));
}

fn main() -> ExitCode {
    #[cfg(unix)]
    ferrotune::formats::mmap::explain_bus_errors();
    print_panics_that_are_no_errors();
    let Cli { args, command } = Cli::parse();
    let report = report::Report::new(args.json);
    match commands::run(&command, &args, &report).and_then(|code| report.check_output().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            report.error(&error);
            ExitCode::FAILURE
        }
    }
}
