//! What stands in a run folder when a run has ended: the adapter or model, tokenizer, receipt and model card.

use std::collections::BTreeSet;
use std::path::Path;

use ferrotune_kernels::{DType, Device};
use serde_json::json;

use crate::Result;
use crate::base::BaseModel;
use crate::fetch::data_sets::DataSet;
use crate::formats::atomic;
use crate::lora::{Adapter, Init, peft};
use crate::model::Decoder;
use crate::results::model_folder;
use crate::results::run_folder::RunFolder;
use crate::results::stops;
use crate::results::trained_beside::TrainedBeside;
use crate::run_config::RunConfig;

use super::{Outcome, Trainable, Trainer};

/// Folder of an adapter that was made into a plain LoRA for the original weights.
const CONVERTED: &str = "adapter_converted";

/// Writes the results of a run beside its metrics and checkpoints; the receipt names the commits of its data sets.
pub fn write(
    folder: &RunFolder,
    config: &RunConfig,
    base: &BaseModel,
    trainer: &Trainer<'_>,
    outcome: &Outcome,
    data_sets: &[DataSet],
) -> Result<()> {
    save_into(folder.path(), base, trainer)?;
    let summary = trainer.summary();
    let (data_hash, base_hash) = trainer.fingerprints();
    let receipt = json!({
        "ferrotune": env!("CARGO_PKG_VERSION"),
        "base": {"name": base.name, "fingerprint": base_hash, "format": summary.base_format},
        "data": {"files": config.data.paths(), "data_sets": data_sets, "rows_sha256": data_hash},
        "seed": config.train.seed,
        "method": summary.method,
        "precision": summary.precision,
        "isa": summary.isa,
        "threads": summary.threads,
        "trainable_parameters": summary.trainable_parameters,
        "total_parameters": summary.total_parameters,
        "steps": outcome.steps,
        "loss": outcome.loss,
        "eval_loss": outcome.eval_loss,
        "interrupted": outcome.interrupted,
        "changed_on_resume": trainer.changes(),
        "peak_rss_bytes": crate::memory::resident().peak,
        "planned_bytes": summary.plan.total(),
    });
    folder.write("receipt.json", format!("{receipt:#}\n").as_bytes())?;
    folder.write("README.md", card(config, base, trainer, outcome, data_sets).as_bytes())
}

/// Writes what was trained, with the tokenizer, into a new or empty folder: the adapter as PEFT reads it, or the whole model.
///
/// # Errors
/// The folder has content, or cannot be written; it appears whole or not at all.
pub fn save(folder: &Path, base: &BaseModel, trainer: &Trainer<'_>) -> Result<()> {
    atomic::write_folder(folder, |hidden| save_into(hidden, base, trainer))
}

fn save_into(folder: &Path, base: &BaseModel, trainer: &Trainer<'_>) -> Result<()> {
    let (model, learned, beside) = (&trainer.session.model, trainer.learned(), trainer.beside());
    let ends = learned.ends;
    match &trainer.session.trainable {
        Trainable::Adapter(adapter) => {
            write_adapter(folder, adapter, model, base, &beside, ends)?;
            // Where the start changed the base weights: the same for programs that know the original ones only.
            if let Some(plain) = adapter.converted(&Device::reference(), model)? {
                write_adapter(&folder.join(CONVERTED), &plain, model, base, &beside, ends)?;
            }
            model_folder::write_sidecars(folder, base, learned)
        }
        Trainable::Full(params) => {
            let dtype = output_dtype(base, model)?;
            model_folder::write(folder, base, model, params, None, dtype, learned)
        }
    }
}

/// Writes an adapter with what must be known to use or merge it: the weights beside it and the tokens that end an answer.
pub(crate) fn write_adapter(
    folder: &Path,
    adapter: &Adapter,
    model: &Decoder,
    base: &BaseModel,
    beside: &TrainedBeside,
    learned: &[u32],
) -> Result<()> {
    peft::save(folder, adapter, model, &base.name)?;
    beside.write(folder)?;
    stops::write(folder, &base.checkpoint, learned)
}

/// f32 models stay f32; all others are written as bf16, as models are published.
pub fn output_dtype(base: &BaseModel, model: &Decoder) -> Result<DType> {
    let a = &model.arch;
    let embedding = base.checkpoint.weight(&a.embedding_weight(), a.vocab, a.hidden)?;
    Ok(if embedding.dtype() == Some(DType::F32) { DType::F32 } else { DType::Bf16 })
}

/// What a reader of the adapter must know of its base.
fn start(trainable: &Trainable) -> String {
    let Trainable::Adapter(adapter) = trainable else { return String::new() };
    match adapter.config.init {
        Init::Kaiming | Init::Gaussian => String::new(),
        Init::Pissa | Init::Olora => format!(
            "The adapter fits base weights that its start changed; ferrotune and PEFT repeat the start when they read \
             it. `{CONVERTED}/` holds the same as a plain LoRA for the original weights.\n\n"
        ),
        Init::Loftq => {
            "The adapter fits base weights that LoftQ quantized to NF4; readers repeat that.\n\n".into()
        }
    }
}

/// The key `datasets` of the card's head, by which the hub links a model with its data.
fn linked(data_sets: &[DataSet]) -> String {
    let names: BTreeSet<&str> = data_sets.iter().map(|set| set.data_set.as_str()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("datasets: [{}]\n", names.into_iter().collect::<Vec<_>>().join(", ")),
    }
}

/// The tokens that end an answer now, for readers that take them from nowhere else: PEFT reads no settings of generation.
fn ends(base: &BaseModel, ends: &[u32]) -> String {
    let words: Vec<String> =
        ends.iter().filter_map(|id| Some(format!("`{}` ({id})", base.tokenizer.token(*id)?))).collect();
    match words.is_empty() {
        true => String::new(),
        false => format!(
            "Answers end with {}. `generation_config.json` says so; with PEFT, load it by \
             `GenerationConfig.from_pretrained` and give it to `generate`.\n\n",
            words.join(", ")
        ),
    }
}

fn card(
    config: &RunConfig,
    base: &BaseModel,
    trainer: &Trainer<'_>,
    o: &Outcome,
    data_sets: &[DataSet],
) -> String {
    let (trainable, s) = (&trainer.session.trainable, trainer.summary());
    let kind = if s.method == "full" { "model" } else { "LoRA adapter (PEFT)" };
    let library = if s.method == "full" { "transformers" } else { "peft" };
    let held = o.eval_loss.map_or(String::new(), |l| format!("| held-out loss | {l:.4} |\n"));
    format!(
        "---\nbase_model: {base}\nlibrary_name: {library}\n{linked}tags: [ferrotune]\n---\n\n\
         # {dir}\n\nA {kind} on `{base}`, trained with ferrotune {version}.\n\n\
         | what | value |\n|---|---|\n\
         | method | {method}, base in {format} |\n\
         | trained parameters | {trained} of {total} |\n\
         | data | {data} |\n\
         | steps | {steps} |\n\
         | loss of the last step | {loss:.4} |\n{held}\
         | seed | {seed} |\n\n{start}{ends}\
         `run.yaml` holds the whole configuration, `receipt.json` versions and hashes, `metrics.jsonl` every step.\n",
        base = base.name,
        linked = linked(data_sets),
        dir = config.output.dir,
        version = env!("CARGO_PKG_VERSION"),
        method = s.method,
        format = s.base_format,
        trained = s.trainable_parameters,
        total = s.total_parameters,
        data = config.data.paths().join(", "),
        steps = o.steps,
        loss = o.loss,
        seed = config.train.seed,
        start = start(trainable),
        ends = ends(base, trainer.ends()),
    )
}
