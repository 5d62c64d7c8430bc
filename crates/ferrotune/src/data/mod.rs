//! Text becomes batches: rows are read, rendered with the model's chat template, tokenized, packed and ordered.

#[allow(clippy::disallowed_methods, reason = "opens the files of rows")]
pub mod rows;

#[allow(clippy::disallowed_methods, reason = "asks which files a path stands for, and reads a template's")]
pub(crate) mod files;

pub mod dataset;

pub mod chat_template;

pub mod tokenizer;

pub mod train_row;

#[allow(clippy::disallowed_methods, reason = "keeps tokens in files")]
pub mod token_rows;

pub mod tokenize;

mod outcomes;

mod reading;

pub mod selection;

pub mod report;

pub mod packed_batch;

pub mod pack;

pub mod batches;

mod order;

mod prefix;

pub mod loader;

pub mod random;

mod languages;

pub(crate) mod template_choice;

use ferrotune_kernels::Threads;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::run_config::{DataFormat, DataOptions, EvalSource, RunConfig};
use chat_template::{ChatTemplate, Clock};
use dataset::{DataFile, ReadOptions};
use reading::{Enough, Input, Reading, Tokenized};
use report::{DataReport, PartReport, Purpose, TextReport};
use rows::RowSource;
use selection::Source;
use token_rows::{TokenCache, TokenRows};
use tokenize::{Names, PrepReport, PrepareOptions, Preparer};
use tokenizer::Tokenizer;

/// The rows of a run, ready to be packed.
#[derive(Clone, Debug)]
pub struct PreparedData {
    /// Rows to train on.
    pub train: TokenRows,
    /// What happened to them.
    pub train_report: PrepReport,
    /// Rows to evaluate on; none if the run file asks for none.
    pub eval: TokenRows,
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
    /// The time that a template prints if it asks for one.
    pub clock: Clock,
    /// Ids that the model has, if they are known.
    pub vocab_size: Option<usize>,
}

/// Reads and tokenizes what the run file's section `data` names, the latter on these threads. Data of some size is taken
/// from `cache` if it is there, and else kept in it.
pub fn prepare(
    threads: &Threads,
    config: &RunConfig,
    model: TextModel<'_>,
    cache: Option<&TokenCache>,
) -> Result<PreparedData> {
    let template = template_of(&config.data, model)?;
    let model = TextModel { template: template.as_ref(), ..model };
    Ok(read_all(threads, config, model, cache)?.data)
}

/// Reads and tokenizes as [`prepare`] does, and says what the data is like.
///
/// # Errors
/// As for [`prepare`].
pub fn report(
    threads: &Threads,
    config: &RunConfig,
    model: TextModel<'_>,
    cache: Option<&TokenCache>,
) -> Result<(PreparedData, DataReport)> {
    let template = template_of(&config.data, model)?;
    let model = TextModel { template: template.as_ref(), ..model };
    let Selected { data, inputs, held_out, is_held } = read_all(threads, config, model, cache)?;
    let held = |example: usize| is_held.as_ref().is_some_and(|is_held| is_held[example]);
    let mut texts = TextReport::new();
    texts.read(threads, &inputs, |example| if held(example) { Purpose::Eval } else { Purpose::Train })?;
    texts.read(threads, &held_out, |_| Purpose::Eval)?;
    let part = |rows, report| PartReport::new(rows, report, model.tokenizer, &data.stop_ids);
    let train = part(&data.train, data.train_report.clone())?;
    let eval = data.eval_report.clone().map(|report| part(&data.eval, report)).transpose()?;
    Ok((data, texts.finish(train, eval)))
}

/// The files that the run file's section `data` names to train on.
fn inputs<'a>(config: &'a RunConfig, model: TextModel<'a>) -> Result<Vec<Input<'a>>> {
    if config.data.is_empty() {
        return Err(Error::config("data.train", "no file is named")
            .with_hint("data.train is a file of rows, a folder, or a list of them"));
    }
    let read = read_options(&config.data, model.template);
    let mut inputs = vec![Input::new(&config.data.train, read)?];
    for source in &config.data.sources {
        let columns = if source.columns.is_empty() { read.columns } else { &source.columns };
        let format = if source.format == DataFormat::Auto { read.format } else { source.format };
        let read = ReadOptions { columns, format, limit: source.rows, ..read };
        inputs.push(Input::new(&source.paths(), read)?);
    }
    Ok(inputs)
}

/// What a run file selects, and what it was selected from.
struct Selected<'a> {
    data: PreparedData,
    inputs: Vec<Input<'a>>,
    /// Files to evaluate on, if they have their own.
    held_out: Vec<Input<'a>>,
    /// Which examples of `inputs` are held out, if some are.
    is_held: Option<Vec<bool>>,
}

fn read_all<'a>(
    threads: &Threads,
    config: &'a RunConfig,
    model: TextModel<'a>,
    cache: Option<&TokenCache>,
) -> Result<Selected<'a>> {
    let inputs = inputs(config, model)?;
    let preparer = preparer(config, model);
    let cache = cache.map(|cache| if config.data.cache { cache.clone() } else { cache.unnamed() });
    let all = match config.data.streaming {
        false => reading::tokenized(threads, &preparer, &inputs, cache.as_ref())?,
        true => {
            let mut reading = Reading::new(threads, &preparer, None)?;
            reading.enough = Some(enough(config)?);
            reading.add_files(&inputs)?;
            reading.finish()?
        }
    };
    Ok(Selected {
        inputs,
        ..selected(
            threads,
            config,
            &preparer,
            read_options(&config.data, model.template),
            all,
            cache.as_ref(),
        )?
    })
}

/// Tokenizes the rows of a program's own source; `name` stands for its file in messages. `data.eval` takes its share of
/// them, or names files.
pub fn prepare_rows(
    threads: &Threads,
    config: &RunConfig,
    model: TextModel<'_>,
    (name, rows): (&str, &mut dyn RowSource),
    cache: Option<&TokenCache>,
) -> Result<PreparedData> {
    let template = template_of(&config.data, model)?;
    let model = TextModel { template: template.as_ref(), ..model };
    let preparer = preparer(config, model);
    // Nobody can tell beforehand what the source will give.
    let cache = cache.map(TokenCache::unnamed);
    let mut reading = Reading::new(threads, &preparer, cache.as_ref())?;
    let read = read_options(&config.data, model.template);
    reading.add_source(name, rows, read)?;
    let all = reading.finish()?;
    Ok(selected(threads, config, &preparer, read, all, cache.as_ref())?.data)
}

/// Tokenizes the rows of files, without a run file.
pub(crate) fn prepare_files(
    threads: &Threads,
    preparer: &Preparer<'_>,
    paths: &[impl AsRef<std::path::Path>],
    read: ReadOptions<'_>,
    cache: Option<&TokenCache>,
) -> Result<(TokenRows, PrepReport)> {
    reading::tokenized(threads, preparer, &[Input::new(paths, read)?], cache)?
        .whole(preparer, preparer.names())
}

fn preparer<'a>(config: &RunConfig, model: TextModel<'a>) -> Preparer<'a> {
    let options = PrepareOptions { vocab_size: model.vocab_size, ..PrepareOptions::from(&config.data) };
    Preparer::new(model.tokenizer, model.template, options).seeded(config.train.seed)
}

/// The template of a run with its variables: that of `data.template`, or the model's.
pub(crate) fn template_of(data: &DataOptions, model: TextModel<'_>) -> Result<Option<ChatTemplate>> {
    let Some(choice) = &data.template else {
        return with_variables(&data.template_variables, model.template);
    };
    let source = template_choice::source(choice, model.tokenizer)?;
    let special_tokens = model.tokenizer.settings().special_tokens.clone();
    let template = ChatTemplate::parse(&source, special_tokens)
        .map_err(|e| Error::config("data.template", e.to_string()).with_hint("see the template"))?
        .with_clock(model.clock);
    with_variables(&data.template_variables, Some(&template))
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

/// How much of the data the steps of a run need, with what is held out of it.
fn enough(config: &RunConfig) -> Result<Enough> {
    let refused = |problem: &str, hint| Err(Error::config("data.streaming", problem).with_hint(hint));
    let Some(steps) = config.train.max_steps else {
        return refused(
            "without train.max_steps all rows are needed",
            "set train.max_steps, or leave streaming out",
        );
    };
    if !config.data.sources.is_empty() {
        return refused(
            "the weights of data.sources need all rows",
            "use data.train alone, or leave streaming out",
        );
    }
    let share = if let EvalSource::Share(share) = config.data.eval { share } else { 0.0 };
    let with_held = |needed: usize| (needed as f64 / (1.0 - share).max(1e-6)).ceil() as usize;
    Ok(match config.train.batch_rows {
        Some(rows) => Enough::Rows(with_held(rows.saturating_mul(steps))),
        None => Enough::Tokens(with_held(config.train.batch_tokens.saturating_mul(steps))),
    })
}

/// What is trained on and what is evaluated of all that was read, for a model whose template has the variables of the run.
fn selected<'a>(
    threads: &Threads,
    config: &'a RunConfig,
    preparer: &Preparer<'_>,
    read: ReadOptions<'a>,
    all: Tokenized,
    cache: Option<&TokenCache>,
) -> Result<Selected<'a>> {
    let count = all.outcomes.len();
    let mut files = all.about.files.clone();
    let mut held_out = Vec::new();
    let (is_held, eval) = match &config.data.eval {
        EvalSource::None => (None, None),
        EvalSource::Share(share) => {
            let is_held = selection::held_out(count, *share, config.train.seed)?;
            let held = all.some((0..count).filter(|example| is_held[*example]));
            (Some(is_held), Some(held))
        }
        EvalSource::Files(paths) => {
            held_out.push(Input::new(paths, read)?);
            let held = reading::tokenized(threads, preparer, &held_out, cache)?;
            files.extend(held.about.files.iter().filter(|file| !all.about.files.contains(file)).cloned());
            (None, Some(held.whole(preparer, Names::EVAL)?))
        }
    };
    let mut sources: Vec<Source> = config.data.sources.iter().map(Source::new).collect();
    let trained = (0..count).filter(|example| is_held.as_ref().is_none_or(|is_held| !is_held[*example]));
    let taken = selection::weighed(&all, trained, &mut sources, config.train.seed);
    let (train, mut train_report) = all.some(taken.into_iter().map(|example| example as usize));
    train_report.sources = sources;
    all.complete(preparer, Names::TRAIN, &mut train_report)?;
    let (eval, eval_report) = eval.unzip();
    eval_report.iter().try_for_each(|report| Preparer::check(report, Names::EVAL))?;
    let stop_ids = preparer.stop_ids();
    let eval = eval.unwrap_or_else(TokenRows::none);
    let data = PreparedData { train, train_report, eval, eval_report, files, stop_ids };
    Ok(Selected { data, inputs: Vec::new(), held_out, is_held })
}
