//! Text becomes batches: rows are read, rendered with the model's chat template, tokenized, packed and ordered.

#[allow(clippy::disallowed_methods, reason = "opens the files of rows")]
pub mod rows;

#[allow(clippy::disallowed_methods, reason = "asks which files a path stands for")]
pub(crate) mod files;

pub mod dataset;

pub mod chat_template;

pub mod tokenizer;

pub mod train_row;

pub mod tokenize;

pub mod packed_batch;

pub mod pack;

pub mod batches;

mod prefix;

pub mod loader;

pub mod random;

use ferrotune_kernels::Threads;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::run_config::{DataFormat, DataOptions, EvalSource, RunConfig};
use chat_template::ChatTemplate;
use dataset::{DataFile, Dataset, ReadOptions};
use tokenize::{Names, PrepReport, PrepareOptions, Preparer};
use tokenizer::Tokenizer;
use train_row::TrainRow;

/// The rows of a run, ready to be packed.
#[derive(Clone, Debug)]
pub struct PreparedData {
    /// Rows to train on.
    pub train: Vec<TrainRow>,
    /// What happened to them.
    pub train_report: PrepReport,
    /// Rows to evaluate on; none if the run file asks for none.
    pub eval: Vec<TrainRow>,
    /// What happened to those.
    pub eval_report: Option<PrepReport>,
    /// All files that were read.
    pub files: Vec<DataFile>,
    /// The tokens at which a model trained on these rows stops.
    pub stop_ids: Vec<u32>,
}

/// What turns rows into the tokens of a model.
#[derive(Clone, Copy)]
pub struct TextModel<'a> {
    /// Text to tokens.
    pub tokenizer: &'a Tokenizer,
    /// How chats are written, if the model says.
    pub template: Option<&'a ChatTemplate>,
    /// Ids that the model has, if they are known.
    pub vocab_size: Option<usize>,
}

/// Reads and tokenizes what the run file's section `data` names, the latter on these threads.
pub fn prepare(threads: &Threads, config: &RunConfig, model: TextModel<'_>) -> Result<PreparedData> {
    if config.data.is_empty() {
        return Err(Error::config("data.train", "no file is named")
            .with_hint("data.train is a file of rows, a folder, or a list of them"));
    }
    let template = with_variables(&config.data.template_variables, model.template)?;
    let model = TextModel { template: template.as_ref(), ..model };
    let read = read_options(&config.data, model.template);
    let mut all = Dataset::read(&config.data.train, read)?;
    for source in &config.data.sources {
        let columns = if source.columns.is_empty() { read.columns } else { &source.columns };
        let format = if source.format == DataFormat::Auto { read.format } else { source.format };
        let read = ReadOptions { columns, format, limit: source.rows, ..read };
        all.append(&source.path, source.weight, Dataset::read(&[&source.path], read)?);
    }
    tokenized(threads, config, model, all)
}

/// Tokenizes rows that were read already, or that were never in a file. `data.eval` takes its share of them, or names files.
pub fn prepare_rows(
    threads: &Threads,
    config: &RunConfig,
    model: TextModel<'_>,
    all: Dataset,
) -> Result<PreparedData> {
    let template = with_variables(&config.data.template_variables, model.template)?;
    tokenized(threads, config, TextModel { template: template.as_ref(), ..model }, all)
}

/// The template with the variables of a run.
pub(crate) fn with_variables(
    variables: &Map<String, Value>,
    template: Option<&ChatTemplate>,
) -> Result<Option<ChatTemplate>> {
    match template {
        None if variables.is_empty() => Ok(None),
        None => Err(Error::config("data.template_variables", "the model has no chat template")
            .with_hint("leave the key out, or take a model that was tuned for chats")),
        Some(template) => template.clone().with_variables(variables).map(Some),
    }
}

/// How the rows of a run are read.
pub(crate) fn read_options<'a>(data: &'a DataOptions, template: Option<&'a ChatTemplate>) -> ReadOptions<'a> {
    ReadOptions { format: data.format, columns: &data.columns, template, ..ReadOptions::default() }
}

/// Tokenizes rows for a model whose template has the variables of the run.
fn tokenized(
    threads: &Threads,
    config: &RunConfig,
    model: TextModel<'_>,
    all: Dataset,
) -> Result<PreparedData> {
    let TextModel { tokenizer, template, vocab_size } = model;
    let read = read_options(&config.data, template);
    let (train, eval) = match &config.data.eval {
        EvalSource::None => (all, None),
        EvalSource::Share(share) => {
            let (train, eval) = all.split(*share, config.train.seed)?;
            (train, Some(eval))
        }
        EvalSource::Files(files) => (all, Some(Dataset::read(files, read)?)),
    };
    let train = train.weighed(config.train.seed);
    let options = PrepareOptions { vocab_size, ..PrepareOptions::from(&config.data) };
    let held = PrepareOptions { names: Names::EVAL, ..options.clone() };
    let preparer = Preparer::new(tokenizer, template, options);
    let mut files = train.files.clone();
    files.extend(eval.iter().flat_map(|eval| eval.files.clone()).filter(|file| !train.files.contains(file)));
    let (train, train_report) = preparer.prepare(threads, &train)?;
    let (eval, eval_report) = match eval {
        Some(eval) => Preparer::new(tokenizer, template, held)
            .prepare(threads, &eval)
            .map(|(rows, report)| (rows, Some(report)))?,
        None => (Vec::new(), None),
    };
    Ok(PreparedData { train, train_report, eval, eval_report, files, stop_ids: preparer.stop_ids() })
}
