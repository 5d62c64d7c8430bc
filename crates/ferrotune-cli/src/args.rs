//! The commands' options. What they mean is decided in `commands/`, one file each.

use std::path::PathBuf;

use ferrotune::lora::algebra::{MajoritySign, Method};
use ferrotune::run_config::{FloatKind, MethodKind, QuantKind};
use ferrotune_kernels::cpu::Isa;

use crate::commands::recipe::{self, Recipe};
use crate::commands::starter;
use crate::words::{self, Color, FloatType, FourBit, Onto, QuantChoice, word};

/// What every command takes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object on stdout when the command ends, and events as JSON lines on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// Number of threads (default: all cores).
    #[arg(long, global = true)]
    pub threads: Option<usize>,
    /// Use a lower instruction set than the CPU has.
    #[arg(long, global = true, value_parser = words::isa())]
    pub isa: Option<Isa>,
    /// Use no network: models come from this machine.
    #[arg(long, global = true)]
    pub offline: bool,
}

/// A base model and, perhaps, an adapter.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Model folder, .gguf file, hub id, adapter folder or run folder (whose base is then used).
    pub model: String,
    /// Adapter folder beside the model.
    #[arg(long)]
    pub adapter: Option<String>,
    /// Base model, where an adapter folder names one that is not here.
    #[arg(long)]
    pub base: Option<String>,
    /// Form in which the base's linears are held.
    #[arg(long, default_value = "auto", value_parser = QuantChoice::parser())]
    pub quant: QuantChoice,
    /// Type of the inputs of matrix products; auto is bf16 for answers, otherwise where the CPU multiplies it.
    #[arg(long, default_value = "auto", value_parser = word::<FloatKind>())]
    pub precision: FloatKind,
    /// Quantize the base anew, and do not keep it for the next start.
    #[arg(long)]
    pub no_cache: bool,
    /// Chat template in the place of the model's or the run's: a name that the model has for one, a .jinja file, or the
    /// template itself.
    #[arg(long, value_name = "TEMPLATE")]
    pub template: Option<String>,
    /// Variable of the chat template, such as enable_thinking=false, beside those that the run was trained with; may be
    /// repeated.
    #[arg(long = "template-variable", value_name = "NAME=VALUE", value_parser = words::variable)]
    pub template_variables: Vec<(String, serde_json::Value)>,
}

/// How tokens are chosen.
#[derive(Debug, Clone, clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0 takes the most likely token (default: the model's own, else 0).
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Only this many of the most likely tokens.
    #[arg(long)]
    pub top_k: Option<usize>,
    /// Only the most likely tokens that together have this probability.
    #[arg(long)]
    pub top_p: Option<f32>,
    /// Seed of the choices.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Most new tokens of an answer.
    #[arg(long, default_value_t = 256)]
    pub max_new_tokens: usize,
}

/// `ferrotune quickstart`
#[derive(Debug, clap::Args)]
pub struct QuickstartArgs {
    /// What is trained.
    #[arg(long, default_value = "qlora", value_parser = word::<MethodKind>())]
    pub method: MethodKind,
    /// Form of the base for qlora.
    #[arg(long, default_value = "auto", value_parser = word::<QuantKind>())]
    pub quant: QuantKind,
    /// Another model than the starter.
    #[arg(long)]
    pub model: Option<String>,
    /// Output folder (default: runs/quickstart, numbered if it exists).
    #[arg(long)]
    pub output: Option<PathBuf>,
    /// Only this many training facts (default: all).
    #[arg(long)]
    pub facts: Option<usize>,
    /// Only this many questions before and after (default: all of the validation split).
    #[arg(long)]
    pub questions: Option<usize>,
    /// Override a key of the run, such as `--set train.lr=1e-3`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// `ferrotune recipe [NAME] [--run]`
#[derive(Debug, clap::Args)]
pub struct RecipeArgs {
    /// What to write (default: list what there is).
    #[arg(value_parser = recipe::parser())]
    pub name: Option<&'static Recipe>,
    /// Folder to write (default: recipe-NAME).
    #[arg(long, short, requires = "name")]
    pub output: Option<PathBuf>,
    /// Base model of the run file: model folder, .gguf file or hub id.
    #[arg(long, default_value = starter::WORD, requires = "name")]
    pub model: String,
    /// Also run it: evaluation, training, evaluation.
    #[arg(long, requires = "name")]
    pub run: bool,
    /// With --run: measure on this many rows of each test only (default: all).
    #[arg(long, requires = "run")]
    pub limit: Option<usize>,
    /// With --run: override a key of the run file, such as `--set train.lr=1e-4`.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "run")]
    pub set: Vec<String>,
}

/// `ferrotune eval MODEL DATA`
#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// What to evaluate.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Files of rows (JSON Lines, JSON, CSV, Parquet), or data sets of the hub (owner/name:test).
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// Also let the model answer every row greedily and count the answers that equal the expected ones.
    #[arg(long)]
    pub exact_match: bool,
    /// The same, and write every row's expected and given answer into this file, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Only the first rows.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Tokens of a row at most.
    #[arg(long, default_value_t = 1024)]
    pub max_length: usize,
    /// Most new tokens of an answer.
    #[arg(long, default_value_t = 128)]
    pub max_new_tokens: usize,
}

/// `ferrotune generate MODEL --prompt TEXT`
#[derive(Debug, clap::Args)]
pub struct GenerateArgs {
    /// What to run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompt (default: standard input).
    #[arg(long, short)]
    pub prompt: Option<String>,
    /// System message (default: data.system of the run).
    #[arg(long)]
    pub system: Option<String>,
    /// Continue the text as it stands, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// Fold the adapter into the weights first.
    #[arg(long)]
    pub merged: bool,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `ferrotune chat MODEL`
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// What to run.
    #[command(flatten)]
    pub model: ModelArgs,
    /// System message (default: data.system of the run).
    #[arg(long)]
    pub system: Option<String>,
    /// Tokens that a conversation may hold.
    #[arg(long, default_value_t = 2048)]
    pub context: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// `ferrotune merge ADAPTER --output FOLDER`
#[derive(Debug, clap::Args)]
pub struct MergeArgs {
    /// Adapter or run folder.
    pub adapter: PathBuf,
    /// Folder to write.
    #[arg(long, short)]
    pub output: PathBuf,
    /// Base model (default: the one that the adapter names).
    #[arg(long)]
    pub base: Option<String>,
    /// Form of the base's linears that the adapter is merged onto.
    #[arg(long, default_value = "auto", value_parser = QuantChoice::parser())]
    pub quant: QuantChoice,
    /// The same in other words.
    #[arg(long)]
    pub onto: Option<Onto>,
    /// Type of the written weights.
    #[arg(long, default_value = "auto")]
    pub dtype: FloatType,
}

/// `ferrotune quantize MODEL --output FOLDER`
#[derive(Debug, clap::Args)]
pub struct QuantizeArgs {
    /// Model folder or hub id, not quantized yet.
    pub model: String,
    /// Folder to write.
    #[arg(long, short)]
    pub output: PathBuf,
    /// 4-bit format.
    #[arg(long = "type", default_value = "nf4")]
    pub kind: FourBit,
    /// Values that share a scale: 64, 128, ... 4096.
    #[arg(long, default_value_t = 64)]
    pub block: usize,
    /// Leave the scales in f32 (default: 8 bits, double quantization).
    #[arg(long)]
    pub no_double: bool,
    /// Type of the floats, from which the linears are quantized.
    #[arg(long, default_value = "auto")]
    pub dtype: FloatType,
}

/// `ferrotune combine ADAPTER... --output FOLDER`
#[derive(Debug, clap::Args)]
pub struct CombineArgs {
    /// Adapter folders (PEFT or MLX-LM).
    #[arg(required = true)]
    pub adapters: Vec<PathBuf>,
    /// Folder to write.
    #[arg(long, short)]
    pub output: PathBuf,
    /// One factor for each adapter, such as 0.7,0.3 (default: 1 for each).
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub weights: Vec<f64>,
    /// As PEFT's combination_type (default: cat, the exact sum; one adapter is only rewritten).
    #[arg(long, value_parser = words::method())]
    pub method: Option<Method>,
    /// The exact weighted sum in the least rank that holds it (linear, cat, svd).
    #[arg(long)]
    pub exact: bool,
    /// Share of the values to keep (ties, dare and magnitude_prune methods).
    #[arg(long)]
    pub density: Option<f64>,
    /// How ties methods elect a sign.
    #[arg(long, default_value = "total", value_parser = word::<MajoritySign>())]
    pub majority_sign: MajoritySign,
    /// Rank of the result of svd methods (default: the largest of the adapters).
    #[arg(long)]
    pub rank: Option<usize>,
    /// Seed of what dare methods drop.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Name of the base to write (default: the one that all adapters name).
    #[arg(long)]
    pub base: Option<String>,
}

/// `ferrotune data RUN.yaml [--html FILE]`
#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// Run file.
    pub run: PathBuf,
    /// Override a key of the run file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write a page with plots, which any browser shows.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// `ferrotune preview RUN.yaml`
#[derive(Debug, clap::Args)]
pub struct PreviewArgs {
    /// Run file.
    pub run: PathBuf,
    /// Override a key of the run file.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Rows to show.
    #[arg(long, short = 'n', default_value_t = 3)]
    pub rows: usize,
    /// Also list every token with its id and label.
    #[arg(long)]
    pub tokens: bool,
    /// Colour of the supervised text.
    #[arg(long, default_value = "auto")]
    pub color: Color,
}

/// `ferrotune train RUN.yaml [--set key=value]... [--resume]`
#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// Run file (YAML, TOML or JSON).
    pub run: PathBuf,
    /// What differs from it.
    #[command(flatten)]
    pub overrides: Overrides,
    /// Go on from the newest checkpoint of the output folder, or start if there is none.
    #[arg(long)]
    pub resume: bool,
    /// With --resume: go on although settings, data or base differ from those of the checkpoint; the receipt says so.
    #[arg(long, requires = "resume")]
    pub accept_changes: bool,
    /// Begin anew in a folder that holds a run; its checkpoints and metrics are kept in its folder previous-1.
    #[arg(long, conflicts_with = "resume")]
    pub restart: bool,
}

/// `ferrotune plan RUN.yaml|MODEL [--memory 8GiB]`
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// Run file, or a model: folder, .gguf file or hub id, of which config.json is enough.
    pub run: String,
    /// What differs from the run file.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// What differs from a run file.
#[derive(Debug, clap::Args)]
pub struct Overrides {
    /// Override a key of the run file, such as `--set train.lr=1e-4`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Memory that the run may use, such as 8GiB (default: what the machine has): the fastest way that fits is taken.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
}

impl Overrides {
    /// All of them as `key=value`, those that have an option of their own last.
    pub fn list(&self) -> Vec<String> {
        let memory = self.memory.iter().map(|size| format!("train.memory={size}"));
        self.set.iter().cloned().chain(memory).collect()
    }
}

/// `ferrotune config [RUN.yaml|KEY]`
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    /// A run file, whose settings are shown in full; or a key such as train.lr, or a section, to explain (default: a run
    /// file with every key and its meaning).
    #[arg(conflicts_with_all = ["schema", "reference"])]
    pub what: Option<String>,
    /// Override a key of the run file.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "what")]
    pub set: Vec<String>,
    /// Print the JSON Schema of run files, for editors.
    #[arg(long, conflicts_with = "reference")]
    pub schema: bool,
    /// Print the reference of all keys in Markdown.
    #[arg(long)]
    pub reference: bool,
}

/// `ferrotune cache [--clear]`
#[derive(Debug, clap::Args)]
pub struct CacheArgs {
    /// Remove all of them.
    #[arg(long)]
    pub clear: bool,
}
