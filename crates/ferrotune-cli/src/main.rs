//! The program: parse, run the command, exit with a code that means something.
//!
//! Exit codes: 0 done, 1 an error, 2 wrong usage, 130 interrupted (after a checkpoint).

// A binary has no outside: everything that a sibling module uses is `pub`.
#![allow(unreachable_pub)]

mod args;
mod commands;
mod environment;
mod report;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    #[cfg(unix)]
    ferrotune::checkpoint::mmap::explain_bus_errors();
    let args = args::Args::parse();
    let report = report::Report::new(args.json);
    match commands::run(&args, &report).and_then(|code| report.check_output().map(|()| code)) {
        Ok(code) => code,
        Err(error) => {
            report.error(&error);
            ExitCode::FAILURE
        }
    }
}
