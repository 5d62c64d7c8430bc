//! A base model opened for work: its files, tokenizer, chat template, and where it came from.

use std::path::Path;

use ferrotune_kernels::{Device, Threads};
use serde_json::Value;

use crate::data::chat_template::{ChatTemplate, Clock, ContentForms, RenderOptions};
use crate::data::dataset::ReadOptions;
use crate::data::report::DataReport;
use crate::data::rows::RowSource;
use crate::data::token_rows::{TokenCache, TokenRows};
use crate::data::tokenize::{ControlWords, PrepReport, PrepareOptions, Preparer};
use crate::data::tokenizer::{Tokenizer, TokenizerSettings};
use crate::data::{PreparedData, TextModel};
use crate::formats::Checkpoint;
use crate::load::base_cache::BaseCache;
use crate::load::{BaseForm, load_cached};
use crate::model::{Decoder, Params};
use crate::run_config::{DataOptions, RunConfig};
use crate::{Error, Result};

/// Files, tokenizer and template of a model; the network itself is loaded from it in the form that is asked for.
pub struct BaseModel {
    /// The files.
    pub checkpoint: Checkpoint,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// How chats are written, if the model says.
    pub template: Option<ChatTemplate>,
    /// What the user called it (hub id or path), for adapters and receipts.
    pub name: String,
    /// Where quantized forms of it are kept; nowhere if absent.
    pub cache: Option<BaseCache>,
    /// Where large tokenized data is kept; nowhere, and all in memory, if absent.
    pub tokens: Option<TokenCache>,
    /// The time that its template prints if it asks for one.
    clock: Clock,
}

impl BaseModel {
    /// Opens the folder or GGUF file at `path`; `name` is what the user called it.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let settings = TokenizerSettings {
            special_tokens: checkpoint
                .special_tokens()?
                .into_iter()
                .map(|(k, v)| (k, Value::String(v)))
                .collect(),
            chat_template: checkpoint.chat_template()?,
            tool_template: checkpoint.tool_template()?,
            other_templates: checkpoint.other_templates()?,
            add_bos: checkpoint.add_bos()?,
        };
        let tokenizer = Tokenizer::new(&checkpoint.tokenizer_json()?, settings, &path.display().to_string())?;
        let clock = Clock::now();
        let template = tokenizer.chat_template(clock)?;
        tokenizer.check_rows(checkpoint.config().vocab_size, path)?;
        Ok(BaseModel {
            checkpoint,
            tokenizer,
            template,
            name: name.to_string(),
            cache: None,
            tokens: None,
            clock,
        })
    }

    /// What a user should know before the model is used.
    pub fn warnings(&self) -> Result<Vec<String>> {
        let mut all = self.checkpoint.warnings()?;
        let (tokens, rows) = (self.tokenizer.vocab_size(), self.checkpoint.config().vocab_size);
        // Embeddings are padded to round sizes: DeepSeek's has 2.3% more rows than tokens, Phi-2's 1.8%, Qwen's 0.2%.
        if rows.saturating_sub(tokens) > rows / 20 {
            all.push(format!(
                "the tokenizer has {tokens} tokens and the model's embedding {rows} rows, more than padding explains: is it \
                 the tokenizer of this model?"
            ));
        }
        Ok(all)
    }

    /// The time that the template prints if it asks for one: that of opening, unless it was set.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Sets that time. A resumed run has that of its beginning, so its rows do not change at midnight.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
        self.template = self.template.take().map(|template| template.with_clock(clock));
    }

    /// Sets the template for everything that is rendered from now on to that of a run, `data.template` with
    /// `data.template_variables`, so that answers are asked for as they were trained.
    pub fn set_template(&mut self, data: &DataOptions) -> Result<()> {
        self.template = crate::data::template_of(data, self.text())?;
        Ok(())
    }

    /// The source of the template that `data.template` names, if it does.
    pub fn chosen_template(&self, data: &DataOptions) -> Result<Option<String>> {
        let source = |choice: &String| crate::data::template_choice::source(choice, &self.tokenizer);
        data.template.as_ref().map(source).transpose()
    }

    /// Loads the network in a form for sequences of up to `positions` tokens, quantized matrices through the cache.
    pub fn load(
        &self,
        dev: &Device,
        form: impl Into<BaseForm>,
        positions: usize,
        note: &mut dyn FnMut(String),
    ) -> Result<(Decoder, Params)> {
        load_cached(dev, &self.checkpoint, form.into(), positions, self.cache.as_ref(), note)
    }

    /// Tokens that end an answer: the model's own, and the template's end of turn.
    pub fn stop_ids(&self) -> Result<Vec<u32>> {
        let preparer = self.preparer(&DataOptions::default());
        let mut ids = self.checkpoint.eos_ids()?;
        ids.extend(preparer.stop_ids());
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Turns examples into rows for this model.
    pub fn preparer(&self, data: &DataOptions) -> Preparer<'_> {
        let vocab_size = Some(self.checkpoint.config().vocab_size);
        let options = PrepareOptions { vocab_size, ..PrepareOptions::from(data) };
        Preparer::new(&self.tokenizer, self.template.as_ref(), options)
    }

    /// How files of rows are read for this model.
    pub fn read_options<'a>(&'a self, data: &'a DataOptions) -> ReadOptions<'a> {
        crate::data::read_options(data, self.template.as_ref())
    }

    /// A chat up to where the assistant answers, as token ids.
    ///
    /// # Errors
    /// The model has no chat template, or the template refuses the messages.
    pub fn prompt(&self, messages: &[Value]) -> Result<Vec<u32>> {
        let template = self.template.as_ref().ok_or_else(|| {
            Error::config("model", "the model has no chat template")
                .with_hint("use generate --raw for plain text")
        })?;
        let mut messages = messages.to_vec();
        ContentForms::probe(template).fit(&mut messages);
        // What a user types ends no turn and begins none.
        let mark = ControlWords::of(&self.tokenizer).shield(&mut messages, None);
        let text = template.render(&messages, None, &RenderOptions::prompt(true))?.text;
        Ok(self.tokenizer.encode_shielded(&text, mark)?.ids)
    }

    /// Tokenizes rows of a program; `name` stands for their file in messages. `data.eval` takes its share of them.
    pub fn prepare_rows(
        &self,
        threads: &Threads,
        config: &RunConfig,
        name: &str,
        rows: &mut dyn RowSource,
    ) -> Result<PreparedData> {
        crate::data::prepare_rows(threads, config, self.text(), (name, rows), self.tokens.as_ref())
    }

    /// Reads and tokenizes the rows that a run file names, the latter on these threads.
    pub fn prepare(&self, threads: &Threads, config: &RunConfig) -> Result<PreparedData> {
        crate::data::prepare(threads, config, self.text(), self.tokens.as_ref())
    }

    /// Reads and tokenizes the rows that a run file names, and says what they are like.
    ///
    /// # Errors
    /// As for [`BaseModel::prepare`].
    pub fn data_report(&self, threads: &Threads, config: &RunConfig) -> Result<(PreparedData, DataReport)> {
        crate::data::report(threads, config, self.text(), self.tokens.as_ref())
    }

    /// Tokenizes the rows of files for an evaluation, or takes what was kept of them.
    ///
    /// # Errors
    /// A file cannot be read, or nothing in it can be evaluated.
    pub fn prepare_files(
        &self,
        threads: &Threads,
        preparer: &Preparer<'_>,
        paths: &[impl AsRef<Path>],
        read: ReadOptions<'_>,
    ) -> Result<(TokenRows, PrepReport)> {
        crate::data::prepare_files(threads, preparer, paths, read, self.tokens.as_ref())
    }

    fn text(&self) -> TextModel<'_> {
        let vocab_size = Some(self.checkpoint.config().vocab_size);
        TextModel {
            tokenizer: &self.tokenizer,
            template: self.template.as_ref(),
            clock: self.clock,
            vocab_size,
        }
    }
}
