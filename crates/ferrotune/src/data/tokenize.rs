//! Examples become token ids, and here alone it is decided which of them are supervised.
//!
//! * A text and a completion end with EOS, which is supervised; a chat ends as its template ends it.
//! * In a chat the assistant's messages are supervised from behind the header that the template writes for a new answer
//!   up to and with the end-of-turn token. The line break after it is not: no model has to write it.
//! * The span of a message is found by rendering the chat up to it, or by the template's own generation marks. The text
//!   is tokenized once, as a whole; a token belongs to a span if it covers any of its bytes.

mod report;
mod spans;

pub use report::PrepReport;

use crate::data::chat_template::{ChatTemplate, RenderOptions};
use crate::data::dataset::{Dataset, Example};
use crate::data::tokenizer::{Encoded, Tokenizer};
use crate::error::{Error, Result};
use crate::run_config::{DataOptions, Overlong, Supervise, Truncation};
use rayon::prelude::*;
use serde_json::{Value, json};

/// The label of a token that is not supervised.
pub const IGNORE: i32 = -100;

/// A tokenized example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainRow {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The token itself where it is supervised, else [`IGNORE`]; not shifted.
    pub labels: Vec<i32>,
}

impl TrainRow {
    fn new(input_ids: Vec<u32>, supervised: impl Fn(usize) -> bool) -> Self {
        let label = |(i, &id): (usize, &u32)| if supervised(i) { id as i32 } else { IGNORE };
        let labels = input_ids.iter().enumerate().map(label).collect();
        TrainRow { input_ids, labels }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that are predicted: supervised ones, without the first, which nothing predicts.
    pub fn label_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE).count()
    }

    /// Keeps `length` tokens of one end.
    pub fn truncate(&mut self, length: usize, side: Truncation) {
        match side {
            Truncation::KeepStart => {
                self.input_ids.truncate(length);
                self.labels.truncate(length);
            }
            Truncation::KeepEnd => {
                let cut = self.len().saturating_sub(length);
                self.input_ids.drain(..cut);
                self.labels.drain(..cut);
            }
        }
    }
}

/// Which parts of a row are supervised; a token must be in all that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// Only what follows the prompt, in rows that have one.
    pub completion: bool,
    /// Only what the assistant wrote, in chats.
    pub assistant: bool,
}

impl From<Supervise> for Masks {
    fn from(supervise: Supervise) -> Self {
        let only = supervise == Supervise::Assistant;
        Masks { completion: only, assistant: only }
    }
}

/// How examples become rows.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// What is supervised.
    pub masks: Masks,
    /// Tokens of a row at most.
    pub max_length: Option<usize>,
    /// Which end of a longer row survives.
    pub truncation: Truncation,
    /// Whether it survives at all.
    pub overlong: Overlong,
    /// System message for chats that have none.
    pub system: Option<String>,
    /// Rows of the model's embedding; ids from there on are refused.
    pub vocab_size: Option<usize>,
}

impl From<&DataOptions> for PrepareOptions {
    fn from(options: &DataOptions) -> Self {
        PrepareOptions {
            masks: options.supervise.into(),
            max_length: Some(options.max_length),
            truncation: options.truncation,
            overlong: options.overlong,
            system: options.system.clone(),
            vocab_size: None,
        }
    }
}

/// Turns examples into rows for one tokenizer and template.
#[derive(Debug)]
pub struct Preparer<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    options: PrepareOptions,
    end_of_turn: spans::EndOfTurn,
}

/// What is wrong with an example, and a hint.
#[derive(Debug, Default)]
pub struct Problem {
    /// What was found and what was expected.
    pub text: String,
    /// What the user could do.
    pub hint: Option<String>,
}

impl Problem {
    fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { text: text.into(), hint: Some(hint.into()) }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem { text: error.to_string(), hint: error.hint() }
    }
}

impl<'a> Preparer<'a> {
    /// A preparer; the template is needed for chats only.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
        options: PrepareOptions,
    ) -> Self {
        let end_of_turn =
            template.map(|template| spans::EndOfTurn::of(tokenizer, template)).unwrap_or_default();
        Preparer { tokenizer, template, options, end_of_turn }
    }

    /// The tokens at which a model that was trained on these rows stops: EOS and what ends a turn of the chat template.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> =
            self.end_of_turn.marks.iter().map(|mark| mark.id).chain(self.tokenizer.eos()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Whether a model stops at this token.
    fn is_end(&self, id: u32) -> bool {
        self.end_of_turn.marks.iter().any(|mark| mark.id == id) || Some(id) == self.tokenizer.eos()
    }

    /// Tokenizes all rows of a data set, in their order, on all threads.
    pub fn prepare(&self, dataset: &Dataset) -> Result<(Vec<TrainRow>, PrepReport)> {
        let rows: Vec<std::result::Result<TrainRow, Problem>> =
            dataset.rows.par_iter().map(|row| self.row(&row.example)).collect();
        let mut report = PrepReport::default();
        let mut kept = Vec::with_capacity(rows.len());
        for (source, row) in dataset.rows.iter().zip(rows) {
            let row = row.map_err(|problem| {
                let error = dataset.error(source, problem.text);
                match problem.hint {
                    Some(hint) => error.with_hint(hint),
                    None => error,
                }
            })?;
            kept.extend(self.fit(row, &mut report));
        }
        self.check(&report)?;
        Ok((kept, report))
    }

    /// Tokenizes one example, at its full length.
    pub fn row(&self, example: &Example) -> std::result::Result<TrainRow, Problem> {
        let row = match example {
            Example::Text(text) => self.text(text, None)?,
            Example::Completion { prompt, completion } => {
                let start = self.options.masks.completion.then_some(prompt.len());
                self.text(&format!("{prompt}{completion}"), start)?
            }
            Example::Chat { messages, prompt_messages, tools, extra } => {
                let options = RenderOptions { kwargs: extra.clone(), ..RenderOptions::default() };
                self.chat(messages, *prompt_messages, tools.as_deref(), options)?
            }
            Example::Tokens { input_ids, labels } => {
                TrainRow { input_ids: input_ids.clone(), labels: labels.clone() }
            }
        };
        self.check_ids(&row)?;
        Ok(row)
    }

    fn check_ids(&self, row: &TrainRow) -> std::result::Result<(), Problem> {
        let Some(limit) = self.options.vocab_size else { return Ok(()) };
        let labels = row.labels.iter().filter_map(|&label| u32::try_from(label).ok());
        match row.input_ids.iter().copied().chain(labels).find(|&id| id as usize >= limit) {
            None => Ok(()),
            Some(id) => Err(Problem::new(
                format!("token {id} is outside of the model's vocabulary of {limit}"),
                "the tokenizer, or the rows of token ids, belong to another model",
            )),
        }
    }

    /// A text with BOS as its tokenizer wants it and EOS at its end; supervised from a byte on.
    fn text(&self, text: &str, start: Option<usize>) -> std::result::Result<TrainRow, Problem> {
        let Encoded { mut ids, mut offsets } = self.tokenizer.encode(text)?;
        // A text that brings its own BOS does not get a second one.
        let bos = self.tokenizer.bos();
        let has_own = bos.is_some() && ids.first().copied() == bos;
        let prefix: Vec<u32> =
            self.tokenizer.prefix().iter().copied().filter(|id| !has_own || Some(*id) != bos).collect();
        ids.splice(0..0, prefix.iter().copied());
        offsets.splice(0..0, prefix.iter().map(|_| (0, 0)));
        if let Some(eos) = self.tokenizer.eos()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
            offsets.push((text.len(), text.len() + 1));
        }
        Ok(match start {
            Some(start) => TrainRow::new(ids, |i| offsets[i].1 > start),
            None => TrainRow::new(ids, |_| true),
        })
    }

    fn chat(
        &self,
        messages: &[Value],
        prompt_messages: usize,
        tools: Option<&[Value]>,
        options: RenderOptions,
    ) -> std::result::Result<TrainRow, Problem> {
        let template = self.template.ok_or_else(|| {
            Problem::new(
                "the row is a chat, but the model has no chat template",
                "use a model that was tuned for chats, or rows of text or of prompt and completion",
            )
        })?;
        let mut messages = messages.to_vec();
        let mut prompt_messages = prompt_messages;
        if let Some(system) = &self.options.system
            && messages.first().is_none_or(|m| m["role"] != "system")
        {
            messages.insert(0, json!({"role": "system", "content": system}));
            prompt_messages += usize::from(prompt_messages > 0);
        }
        let chat = spans::Chat { template, messages: &messages, tools, options };
        let rendered = chat.whole()?;
        let Encoded { ids, offsets } = self.tokenizer.encode(&rendered.text)?;
        if let (Some(bos), [first, second, ..]) = (self.tokenizer.bos(), ids.as_slice())
            && (*first, *second) == (bos, bos)
        {
            return Err(Problem::new(
                "the rendered chat starts with two BOS tokens",
                "the template writes one by itself; take the other out of the messages or of the template",
            ));
        }
        let start = match self.options.masks.completion && prompt_messages > 0 {
            true => chat.prefix(&rendered, prompt_messages)?,
            false => 0,
        };
        let first = if self.options.masks.completion { prompt_messages } else { 0 };
        let spans = match self.options.masks.assistant {
            true => Some(chat.assistant_spans(&rendered, &self.end_of_turn, first)?),
            false => None,
        };
        Ok(TrainRow::new(ids, |i| {
            let (from, to) = offsets[i];
            to > start
                && spans.as_ref().is_none_or(|spans| spans.iter().any(|s| from < s.end && to > s.start))
        }))
    }

    /// Brings a row to its length, or drops it, and counts.
    fn fit(&self, mut row: TrainRow, report: &mut PrepReport) -> Option<TrainRow> {
        report.rows += 1;
        let ends = |row: &TrainRow| {
            let last = row.labels.iter().rposition(|&label| label != IGNORE);
            last.is_some_and(|last| last > 0 && self.is_end(row.input_ids[last]))
        };
        let limit = self.options.max_length.unwrap_or(usize::MAX);
        if row.len() > limit {
            if self.options.overlong == Overlong::Drop {
                report.dropped_overlong += 1;
                return None;
            }
            let had_end = ends(&row);
            row.truncate(limit, self.options.truncation);
            report.truncated += 1;
            report.lost_terminators += usize::from(had_end && !ends(&row));
        }
        let label_tokens = row.label_tokens();
        if label_tokens == 0 {
            report.dropped_unsupervised += 1;
            return None;
        }
        report.kept += 1;
        report.tokens += row.len();
        report.label_tokens += label_tokens;
        report.longest = report.longest.max(row.len());
        let mut trained = row.labels.iter().skip(1).filter_map(|&label| u32::try_from(label).ok());
        report.rows_with_terminator += usize::from(trained.any(|id| self.is_end(id)));
        Some(row)
    }

    fn check(&self, report: &PrepReport) -> Result<()> {
        if report.kept > 0 {
            return Ok(());
        }
        let hint = if report.dropped_overlong > 0 {
            "all rows are longer than data.max_length; raise it or use data.overlong=truncate"
        } else if report.truncated == report.rows {
            "each answer starts behind data.max_length; raise it or use data.truncation=keep_end"
        } else {
            "chats need messages of the role assistant; data.supervise=all trains on every token"
        };
        Err(Error::config(
            "data.train",
            format!("no supervised token is left in any of {} rows", report.rows),
        )
        .with_hint(hint))
    }
}

/// Pieces of a row's text with whether they are supervised, for a coloured preview. Tokens that share a character make
/// one piece.
pub fn preview(row: &TrainRow, tokenizer: &Tokenizer) -> Result<Vec<(String, bool)>> {
    let mut stream = tokenizer.stream(&[], false);
    let mut pieces = Vec::with_capacity(row.len());
    let mut pending = false;
    for (&id, &label) in row.input_ids.iter().zip(&row.labels) {
        pending |= label != IGNORE;
        let text = stream.push(id)?;
        if !text.is_empty() {
            pieces.push((text, std::mem::take(&mut pending)));
        }
    }
    let rest = stream.finish()?;
    if !rest.is_empty() {
        pieces.push((rest, pending));
    }
    Ok(pieces)
}
