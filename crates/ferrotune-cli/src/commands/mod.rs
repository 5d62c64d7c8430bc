//! One file for each verb.

mod cache;
mod chat;
mod combine;
mod config;
mod data;
mod data_sets;
mod eval;
mod generate;
mod held_out;
mod merge;
mod open;
mod plan;
mod preview;
mod quantize;
mod quickstart;
pub mod recipe;
mod run_file;
pub mod starter;
mod train;
mod us_gaap;

use std::path::Path;
use std::process::ExitCode;

use ferrotune::base::BaseModel;
use ferrotune::fetch::hub;
use ferrotune::fetch::hub::HubId;
use ferrotune::load::base_cache::BaseCache;
use ferrotune::run_config::{ModelOptions, RunConfig};
use ferrotune::train::Event;
use ferrotune::{Error, Result};
use ferrotune_kernels::Device;

use crate::args::{
    Args, CacheArgs, ChatArgs, CombineArgs, ConfigArgs, DataArgs, EvalArgs, GenerateArgs, MergeArgs,
    PlanArgs, PreviewArgs, QuantizeArgs, QuickstartArgs, RecipeArgs, TrainArgs,
};
use crate::environment::Environment;
use crate::report::Report;

/// Declares the commands: what the help says, arguments, and the module whose `run` they are.
macro_rules! commands {
    ($($(#[$about:meta])* $name:ident($args:ty) = $module:ident),+ $(,)?) => {
        /// What to do.
        #[derive(Debug, clap::Subcommand)]
        pub enum Command {
            $($(#[$about])* $name($args)),+
        }

        /// Runs a command.
        pub fn run(command: &Command, args: &Args, report: &Report) -> Result<ExitCode> {
            match command {
                $(Command::$name(a) => $module::run(args, a, report)),+
            }
        }
    };
}

commands! {
    /// Learn a finance task with a small model, measured from before to after: the tour of ferrotune.
    Quickstart(QuickstartArgs) = quickstart,
    /// Write a worked example for a use of fine-tuning (chatbot, code, voice, finance); run it from before to after.
    Recipe(RecipeArgs) = recipe,
    /// Train as a run file says.
    Train(TrainArgs) = train,
    /// Memory and speed of every way to train a model on this machine, before anything is loaded.
    Plan(PlanArgs) = plan,
    /// Loss, perplexity and exact match on rows.
    Eval(EvalArgs) = eval,
    /// Continue a prompt.
    Generate(GenerateArgs) = generate,
    /// Talk with a model; switch adapters without reloading the base.
    Chat(ChatArgs) = chat,
    /// Fold an adapter into its base and write a Hugging Face folder.
    Merge(MergeArgs) = merge,
    /// Write a model folder in 4 bits, which transformers loads as it is.
    Quantize(QuantizeArgs) = quantize,
    /// Make one adapter of several, or the PEFT form of an MLX-LM adapter.
    Combine(CombineArgs) = combine,
    /// Say what a data set is like before training: lengths, labels, duplicates, leakage, what should not be in it.
    Data(DataArgs) = data,
    /// Show rows as the model will see them, with the supervised tokens coloured.
    Preview(PreviewArgs) = preview,
    /// Print every key of the run file, explain one, or show the settings of a run file in full.
    Config(ConfigArgs) = config,
    /// List the quantized bases and tokenized data that are kept for the next start, or remove them.
    Cache(CacheArgs) = cache,
}

/// The device of the global options; a run file's number of threads comes second.
fn device(args: &Args, threads: Option<usize>) -> Result<Device> {
    if args.threads == Some(0) {
        return Err(Error::config("--threads", "found 0, expected at least 1"));
    }
    Ok(Device::cpu(args.threads.or(threads), args.isa)?)
}

/// Refuses a folder to write that is there already: nobody's files are replaced. An empty one is as good as none.
fn new_folder(output: &Path) -> Result<()> {
    let empty = std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    if output.exists() && !empty {
        return Err(Error::file(output, "exists already").with_hint("give another --output, or remove it"));
    }
    Ok(())
}

/// Bytes of the weight files of a model or adapter: a GGUF file, or those of a folder.
fn weight_bytes(path: &Path) -> u64 {
    if path.is_file() {
        return std::fs::metadata(path).map_or(0, |m| m.len());
    }
    let entries = std::fs::read_dir(path).map(|e| e.flatten().collect::<Vec<_>>()).unwrap_or_default();
    let weights = entries.into_iter().filter(|e| e.path().extension().is_some_and(|x| x == "safetensors"));
    weights.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

/// Opens a base model whose quantized forms are kept as the run file says, if there is one.
fn open_cached(args: &Args, name: &str, run: Option<&RunConfig>, report: &Report) -> Result<BaseModel> {
    let mut base = open_base(args, name, report)?;
    keep_quantized(&mut base, &run.map_or_else(ModelOptions::default, |run| run.model.clone()));
    Ok(base)
}

/// Lets hashes and quantized forms of the base be kept in the program's cache, the latter unless the options say
/// otherwise.
fn keep_quantized(base: &mut BaseModel, options: &ModelOptions) {
    base.checkpoint.keep_hashes(&Environment::cache_folder());
    base.cache = options.cache.then(|| BaseCache::new(&cache::folder(), options.cache_limit));
}

/// Opens a base model: a path if there is something, the starter by its word, else a hub id.
fn open_base(args: &Args, name: &str, report: &Report) -> Result<BaseModel> {
    if name.is_empty() {
        return Err(Error::config("model.base", "no base model is given")
            .with_hint("set model.base to a model folder, a .gguf file or a hub id"));
    }
    let path = Path::new(name);
    if path.exists() {
        return opened(path, name, report);
    }
    if name == starter::WORD {
        return Ok(starter::open_starter(args, report)?.1);
    }
    let Some(id) = HubId::parse(name) else {
        return Err(Error::file(path, "no such file or folder, and not a hub id")
            .with_hint("a hub id is owner/name, owner/name@revision or owner/name/file.gguf"));
    };
    let environment = Environment::read(args.offline);
    let fetched = hub::fetch(&id, &environment.hub, &mut |progress| report.progress(&progress));
    report.end_bar();
    let found = fetched.map_err(|error| match error {
        Error::Network { url, problem, hint } => {
            let hint = hint.map_or_else(String::new, |hint| format!("{hint}; "));
            let hint = format!("{hint}there is no file or folder `{name}` either");
            Error::Network { url, problem, hint: Some(hint) }
        }
        error => error,
    })?;
    opened(&found, name, report)
}

/// Opens what is on this machine, and says what a user should know of it.
fn opened(path: &Path, name: &str, report: &Report) -> Result<BaseModel> {
    let mut base = BaseModel::open(path, name)?;
    base.tokens = Some(cache::tokens());
    for text in base.warnings()? {
        report.event(&Event::Warning { text });
    }
    Ok(base)
}
