//! Every command's options. What they mean is decided in `commands/`, one file each.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Fine-tune language models with full fine-tuning, LoRA and QLoRA on the machine you have.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Args {
    /// Print one JSON object on stdout when the command ends, and events as JSON lines on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// Number of threads (default: all cores).
    #[arg(long, global = true)]
    pub threads: Option<usize>,
    /// Use a lower instruction set than the CPU has: portable, avx2, avx512, avx512-bf16.
    #[arg(long, global = true)]
    pub isa: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train as a run file says.
    Train(TrainArgs),
}

/// `ferrotune train RUN.yaml [--set key=value]... [--resume]`
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Run file (YAML, TOML or JSON).
    pub run: PathBuf,
    /// Override a key of the run file, such as `--set train.lr=1e-4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on from the newest checkpoint of the output folder, or start if there is none.
    #[arg(long)]
    pub resume: bool,
}
