//! One file for each verb.

mod chat;
mod eval;
mod generate;
mod merge;
mod open;
mod preview;
mod quickstart;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use ferrotune::base::BaseModel;
use ferrotune::train::setup;
use ferrotune::{Error, Result};
use ferrotune_kernels::Device;
use ferrotune_kernels::cpu::Isa;

use crate::args::{Args, Command};
use crate::report::Report;

/// Runs the command that was asked for.
pub fn run(args: &Args, report: &Report) -> Result<ExitCode> {
    match &args.command {
        Command::Quickstart(a) => quickstart::run(args, a, report),
        Command::Train(a) => train::run(args, a, report),
        Command::Eval(a) => eval::run(args, a, report),
        Command::Generate(a) => generate::run(args, a, report),
        Command::Chat(a) => chat::run(args, a, report),
        Command::Merge(a) => merge::run(args, a, report),
        Command::Preview(a) => preview::run(a, report),
    }
}

/// The device of the global options; a run file's number of threads comes second.
fn device(args: &Args, threads: Option<usize>) -> Result<Device> {
    let isa = match &args.isa {
        None => None,
        Some(name) => Some(Isa::ALL.into_iter().find(|i| i.name() == name).ok_or_else(|| {
            let names = Isa::ALL.map(Isa::name).join(", ");
            Error::config("--isa", format!("`{name}` is not an instruction set"))
                .with_hint(format!("one of {names}"))
        })?),
    };
    if args.threads == Some(0) {
        return Err(Error::config("--threads", "found 0, expected at least 1"));
    }
    setup::device(args.threads.or(threads), isa)
}

/// Opens a base model by path or hub id.
fn open_base(name: &str, _report: &Report) -> Result<BaseModel> {
    if name.is_empty() {
        return Err(Error::config("model.base", "no base model is given")
            .with_hint("set model.base to a model folder, a .gguf file or a hub id"));
    }
    BaseModel::open(&PathBuf::from(name), name)
}

/// The model of the quickstart.
struct Starter {
    path: PathBuf,
    name: String,
    source: String,
}

/// The model asked for, or the starter.
fn starter(_args: &Args, model: Option<&str>, _report: &Report) -> Result<Starter> {
    match model {
        Some(name) => Ok(Starter { path: PathBuf::from(name), name: name.into(), source: "given".into() }),
        None => Err(Error::config("--model", "no starter model is known yet")),
    }
}
