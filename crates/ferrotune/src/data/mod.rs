//! Text becomes batches: rows are read, rendered with the model's chat template, tokenized, packed and ordered.

pub mod rows;

pub mod dataset;

pub mod chat_template;

pub mod tokenizer;

pub mod tokenize;

pub mod pack;

pub mod batches;

mod prefix;

pub mod loader;

pub mod random;

use ferrotune_kernels::Threads;

use crate::error::{Error, Result};
use crate::run_config::{EvalSource, RunConfig};
use chat_template::ChatTemplate;
use dataset::{DataFile, Dataset, ReadOptions};
use tokenize::{Names, PrepReport, PrepareOptions, Preparer, TrainRow};
use tokenizer::Tokenizer;

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

/// Reads and tokenizes what the run file's section `data` names, the latter on these threads. `vocab_size` is the model's.
pub fn prepare(
    threads: &Threads,
    config: &RunConfig,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    vocab_size: Option<usize>,
) -> Result<PreparedData> {
    if config.data.train.is_empty() {
        return Err(Error::config("data.train", "no file is named")
            .with_hint("data.train is a .jsonl file or a list of them"));
    }
    let read = ReadOptions { format: config.data.format, template, limit: None };
    let all = Dataset::read(&config.data.train, read)?;
    let (train, eval) = match &config.data.eval {
        EvalSource::None => (all, None),
        EvalSource::Share(share) => {
            let (train, eval) = all.split(*share, config.train.seed)?;
            (train, Some(eval))
        }
        EvalSource::Files(files) => (all, Some(Dataset::read(files, read)?)),
    };
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
