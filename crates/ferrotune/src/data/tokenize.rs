//! Examples become token ids, and here alone it is decided which of them are supervised.
//!
//! * A text and a completion end with EOS, which is supervised; a chat ends as its template ends it.
//! * In a chat the assistant's messages are supervised from behind the header that the template writes for a new answer
//!   up to and with the end-of-turn token. The line break after it is not: no model has to write it.
//! * The span of a message is found by rendering the chat up to it, or by the template's own generation marks. The text
//!   is tokenized once, as a whole; a token belongs to a span if it covers any of its bytes.
//! * An answer is trained as it is served. Where a template writes it otherwise as soon as more follows, a chat becomes
//!   several rows (`spans`). What a template leaves out of a chat is counted (`pieces`).

mod arguments;
mod code;
mod control;
mod ends;
mod outcome;
mod pieces;
mod problem;
mod reasoning;
mod report;
mod spans;

pub use code::FimOptions;
pub(crate) use control::ControlWords;
pub(crate) use outcome::Outcome;
pub use pieces::Piece;
pub use problem::Problem;
pub use report::{Names, PrepReport};

use ferrotune_kernels::Threads;

use crate::data::chat_template::ChatTemplate;
use crate::data::dataset::{BadRows, Chat, DataFile, Dataset, Example};
use crate::data::reading::Reading;
use crate::data::token_rows::TokenRows;
use crate::data::tokenizer::{Encoded, PlainText, Tokenizer};
use crate::data::train_row::{IGNORE, TrainRow};
use crate::error::{Error, Result};
use crate::run_config::{BadRowPolicy, DataOptions, Overlong, Reasoning, Supervise, Truncation};
use code::CodeStyle;
use std::collections::BTreeSet;
use std::sync::OnceLock;

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
    /// Whether words of control tokens are text; in messages of chats alone if absent.
    pub split_special_tokens: Option<bool>,
    /// System message for chats that have none.
    pub system: Option<String>,
    /// Rows of the model's embedding; ids from there on are refused.
    pub vocab_size: Option<usize>,
    /// What happens to thoughts.
    pub reasoning: Reasoning,
    /// Which source files are permuted.
    pub fim: FimOptions,
    /// What happens to rows that cannot be used.
    pub bad_rows: BadRowPolicy,
    /// What messages call the rows and the options.
    pub names: Names,
}

impl From<&DataOptions> for PrepareOptions {
    fn from(options: &DataOptions) -> Self {
        PrepareOptions {
            masks: options.supervise.into(),
            max_length: Some(options.max_length),
            truncation: options.truncation,
            overlong: options.overlong,
            split_special_tokens: options.split_special_tokens,
            system: options.system.clone(),
            vocab_size: None,
            reasoning: options.reasoning,
            fim: options.into(),
            bad_rows: options.bad_rows,
            names: Names::default(),
        }
    }
}

impl PrepareOptions {
    /// What of them decides the rows, as text.
    fn deciding(&self) -> String {
        let names = Names::default();
        let fim = if self.fim.rate > 0.0 { self.fim } else { FimOptions::default() };
        format!("{:?}", PrepareOptions { bad_rows: BadRowPolicy::Fail, names, fim, ..self.clone() })
    }
}

/// Turns examples into rows for one tokenizer and template.
#[derive(Debug)]
pub struct Preparer<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    /// The chat template, and the one for chats with tools if that is another.
    styles: Vec<spans::Style<'a>>,
    options: PrepareOptions,
    known: pieces::Known,
    control: ControlWords,
    /// For texts in which words of control tokens are text, once there are some.
    plain: OnceLock<PlainText>,
    /// How source files are written, once there are some.
    code: OnceLock<CodeStyle>,
}

/// What an example became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// One row, or one for each answer that the template writes otherwise as soon as more follows.
    pub rows: Vec<TrainRow>,
    /// What the template leaves out of it.
    pub left_out: BTreeSet<Piece>,
    /// Whether it is a text, which can be cut anywhere.
    pub is_text: bool,
    /// How many of its rows are in fill-in-the-middle order.
    pub permuted: usize,
    /// How many thoughts were masked or dropped.
    pub thoughts: usize,
    /// Whether words of control tokens in it were read as text.
    pub control_words: bool,
}

impl From<TrainRow> for Made {
    fn from(row: TrainRow) -> Self {
        Made { rows: vec![row], ..Made::default() }
    }
}

impl<'a> Preparer<'a> {
    /// A preparer; the template is needed for chats only.
    pub fn new(
        tokenizer: &'a Tokenizer,
        template: Option<&'a ChatTemplate>,
        options: PrepareOptions,
    ) -> Self {
        let tools = template.and_then(ChatTemplate::tool_use);
        let styles = template
            .into_iter()
            .chain(tools)
            .map(|template| spans::Style::probe(tokenizer, template))
            .collect();
        Preparer {
            tokenizer,
            template,
            styles,
            options,
            known: pieces::Known::default(),
            control: ControlWords::of(tokenizer),
            plain: OnceLock::new(),
            code: OnceLock::new(),
        }
    }

    /// What decides which rows an example becomes, as texts: the program, tokenizer, template and options.
    pub(crate) fn deciding(&self) -> Vec<String> {
        let template = self.template.map(ChatTemplate::deciding).unwrap_or_default();
        let program = concat!("ferrotune ", env!("CARGO_PKG_VERSION")).to_string();
        vec![program, self.tokenizer.sha256().to_string(), template, self.options.deciding()]
    }

    /// This tokenizer with other words for where the rows come from.
    #[must_use]
    pub fn named(mut self, names: Names) -> Self {
        self.options.names = names;
        self
    }

    /// This preparer with the seed of a run, which decides with the path of a source file whether and where it is cut.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        self.options.fim.seed = seed;
        self
    }

    /// The tokens at which a model that was trained on these rows stops: EOS and what ends a turn of the chat template.
    pub fn stop_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.marks().map(|mark| mark.id).chain(self.tokenizer.eos()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn code(&self) -> &CodeStyle {
        self.code.get_or_init(|| CodeStyle::probe(self.tokenizer))
    }

    fn marks(&self) -> impl Iterator<Item = &ends::Mark> {
        self.styles.iter().flat_map(|style| &style.ends.marks)
    }

    /// Whether a model stops at this token.
    fn is_end(&self, id: u32) -> bool {
        self.marks().any(|mark| mark.id == id) || Some(id) == self.tokenizer.eos()
    }

    /// Tokenizes all rows of a data set, in their order, on these threads. Rows that cannot be used are an error about all
    /// of them, unless the options leave them out.
    pub fn prepare(&self, threads: &Threads, dataset: &Dataset) -> Result<(TokenRows, PrepReport)> {
        let mut reading = Reading::new(threads, self, None)?;
        reading.take_all(dataset)?;
        reading.finish()?.whole(self, self.names())
    }

    /// Refuses options that the model lacks something for.
    pub(crate) fn check_options(&self) -> Result<()> {
        if self.options.fim.rate > 0.0 { self.code().check(self.options.fim) } else { Ok(()) }
    }

    /// Rows that cannot be used, of `all`, end the preparation or are counted.
    pub(crate) fn told(
        &self,
        bad: &BadRows,
        files: &[DataFile],
        all: usize,
        report: &mut PrepReport,
    ) -> Result<()> {
        let skip = self.options.names.has_run_file.then_some("data.bad_rows=skip leaves such rows out");
        if self.options.bad_rows == BadRowPolicy::Fail || bad.len() == all {
            return bad.error(files, all, skip).map_or(Ok(()), Err);
        }
        report.bad_rows = bad.len();
        report.bad = bad.lines(files);
        Ok(())
    }

    /// The rows that an example becomes, brought to their length, and what happened to it.
    pub(crate) fn fitted(&self, example: &Example) -> std::result::Result<(Vec<TrainRow>, Outcome), Problem> {
        let made = self.rows(example)?;
        let mut outcome =
            Outcome { permuted: made.permuted as u32, thoughts: made.thoughts as u32, ..Outcome::default() };
        outcome.control_words = made.control_words;
        made.left_out.iter().for_each(|piece| outcome.leave_out(*piece));
        let limit = self.options.max_length.unwrap_or(usize::MAX);
        let mut rows = made.rows;
        if made.is_text && (rows.len() > 1 || rows.iter().any(|row| row.len() > limit)) {
            outcome.split_text = self.options.overlong == Overlong::Split;
            outcome.cut_text = self.options.overlong == Overlong::Truncate;
        }
        if outcome.split_text {
            rows = rows.iter().flat_map(|row| row.pieces(limit)).collect();
        }
        let mut kept: Vec<TrainRow> = Vec::with_capacity(rows.len());
        for row in rows {
            if let Some(mut row) = self.fit(row, &mut outcome) {
                row.goes_on = !kept.is_empty() && !outcome.split_text;
                kept.push(row);
            }
        }
        Ok((kept, outcome))
    }

    /// Tokenizes one example, at its full length.
    pub fn rows(&self, example: &Example) -> std::result::Result<Made, Problem> {
        let made = match example {
            Example::Text(text) => Made { is_text: true, ..self.text(text, None)?.into() },
            Example::Completion { prompt, completion } => {
                let start = self.options.masks.completion.then_some(prompt.len());
                self.text(&format!("{prompt}{completion}"), start)?.into()
            }
            Example::Chat(chat) => self.chat(chat)?,
            Example::Code(file) => {
                let limit = self.options.max_length.unwrap_or(usize::MAX);
                let made = self.code().rows(file, self.options.fim, limit, self.options.overlong)?;
                Made { rows: made.rows, permuted: made.permuted, is_text: true, ..Made::default() }
            }
            Example::Tokens { input_ids, labels } => {
                TrainRow { input_ids: input_ids.clone(), labels: labels.clone(), goes_on: false }.into()
            }
        };
        made.rows.iter().try_for_each(|row| self.check_ids(row))?;
        Ok(made)
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
        let Encoded { mut ids, mut offsets } = match self.options.split_special_tokens {
            Some(true) => self.plain.get_or_init(|| self.tokenizer.plain(&[])).encode(text)?,
            _ => self.tokenizer.encode(text)?,
        };
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

    fn chat(&self, chat: &Chat) -> std::result::Result<Made, Problem> {
        let style = match (self.styles.as_slice(), &chat.tools) {
            ([_, tool_use], Some(_)) => tool_use,
            ([style, ..], _) => style,
            ([], _) => {
                return Err(Problem::new(
                    "the row is a chat, but the model has no chat template",
                    "use a model that was tuned for chats, or rows of text or of prompt and completion",
                ));
            }
        };
        let mut chat = chat.clone();
        if let Some(system) = &self.options.system
            && chat.messages.first().is_none_or(|m| m["role"] != "system")
        {
            chat.insert_system(system);
        }
        let mut thoughts = 0;
        if self.options.reasoning == Reasoning::Drop {
            thoughts = reasoning::drop_thoughts(&mut chat.messages)?;
        }
        style.forms.fit(&mut chat.messages);
        let mark = match self.options.split_special_tokens {
            Some(false) => None,
            _ => self.control.shield(&mut chat.messages, chat.tools.as_mut()),
        };
        let made = match self.rendered(&chat, style, mark) {
            // Some templates join the arguments of a call to other text, which an object cannot be.
            Err(problem) if arguments::to_text(&mut chat.messages) => {
                self.rendered(&chat, style, mark).map_err(|_| problem)
            }
            made => made,
        };
        made.map(|made| Made { thoughts: made.thoughts + thoughts, control_words: mark.is_some(), ..made })
    }

    /// The rows of a chat in which words of control tokens have this mark.
    fn rendered(
        &self,
        row: &Chat,
        style: &spans::Style<'_>,
        mark: Option<char>,
    ) -> std::result::Result<Made, Problem> {
        let masks = self.options.masks;
        let masked = self.options.reasoning == Reasoning::Mask;
        let chat = spans::Chat::new(style, &row.messages, row.tools.as_deref(), &row.extra, masked)?;
        let first = if masks.completion { row.prompt_messages } else { 0 };
        let is_answer = |k: &usize| row.messages[*k]["role"] == "assistant" && !row.untrained.contains(k);
        let answers: Vec<usize> = match masks.assistant {
            true => (first..row.messages.len()).filter(is_answer).collect(),
            false if row.untrained.is_empty() => Vec::new(),
            false => {
                return Err(Problem::new(
                    format!("message {} is marked not to be trained, and all tokens are", row.untrained[0]),
                    "use data.supervise=assistant, or take the marks out of the rows",
                ));
            }
        };
        let (carriers, thought_lost) = chat.carriers(&answers)?;
        let start = match masks.completion && !masks.assistant && row.prompt_messages > 0 {
            true => chat.prefix(&carriers[0].rendered, row.prompt_messages)?,
            false => 0,
        };
        let mut left_out = pieces::left_out(&chat, &carriers, &self.known);
        if thought_lost {
            left_out.insert(Piece::Thought);
        }
        let one = |carrier: &spans::Carrier| {
            let text = &carrier.rendered.text;
            let Encoded { ids, offsets } = self.tokenizer.encode_shielded(text, mark)?;
            self.check_bos(&ids)?;
            Ok(TrainRow::new(ids, |i| {
                let (from, to) = offsets[i];
                let inside = || carrier.spans.iter().any(|s| from < s.end && to > s.start);
                to > start && (!masks.assistant || inside())
            }))
        };
        let rows = carriers.iter().map(one).collect::<std::result::Result<_, Problem>>()?;
        let has_thought = |k: &&usize| reasoning::thought(&row.messages[**k]).is_some();
        let thoughts = if masked { answers.iter().filter(has_thought).count() } else { 0 };
        Ok(Made { rows, left_out, thoughts, ..Made::default() })
    }

    fn check_bos(&self, ids: &[u32]) -> std::result::Result<(), Problem> {
        if let (Some(bos), [first, second, ..]) = (self.tokenizer.bos(), ids)
            && (*first, *second) == (bos, bos)
        {
            return Err(Problem::new(
                "the rendered chat starts with two BOS tokens",
                "the template writes one by itself; take the other out of the messages or of the template",
            ));
        }
        Ok(())
    }

    /// Brings a row to its length, or drops it, and counts.
    fn fit(&self, mut row: TrainRow, outcome: &mut Outcome) -> Option<TrainRow> {
        let ends = |row: &TrainRow| {
            let last = row.labels.iter().rposition(|&label| label != IGNORE);
            last.is_some_and(|last| last > 0 && self.is_end(row.input_ids[last]))
        };
        let limit = self.options.max_length.unwrap_or(usize::MAX);
        if row.len() > limit {
            if self.options.overlong == Overlong::Drop {
                outcome.overlong += 1;
                return None;
            }
            let had_end = ends(&row);
            row.truncate(limit, self.options.truncation);
            outcome.truncated += 1;
            outcome.lost_terminators += u32::from(had_end && !ends(&row));
        }
        if row.label_tokens() == 0 {
            outcome.unsupervised += 1;
            return None;
        }
        Some(row)
    }

    /// What messages call the rows and the options.
    pub(crate) fn names(&self) -> Names {
        self.options.names
    }

    /// Refuses a selection of which nothing can be trained, in the words of where its rows come from.
    pub(crate) fn check(report: &PrepReport, names: Names) -> Result<()> {
        if report.kept > 0 {
            return Ok(());
        }
        let Names { data, max_length, has_run_file } = names;
        let (otherwise, keep_end, all) = match has_run_file {
            true => (" or use data.overlong=truncate", " or use data.truncation=keep_end", true),
            false => ("", "", false),
        };
        let hint = if report.dropped_overlong > 0 {
            format!("all rows are longer than {max_length}; raise it{otherwise}")
        } else if report.truncated == report.rows + report.added_rows {
            format!("each answer starts behind {max_length}; raise it{keep_end}")
        } else if all {
            "chats need messages of the role assistant; data.supervise=all trains on every token".to_string()
        } else {
            "chats need messages of the role assistant".to_string()
        };
        let problem = format!("no supervised token is left in any of {} rows", report.rows);
        Err(Error::config(data, problem).with_hint(hint))
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
