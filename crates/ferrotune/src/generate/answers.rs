//! Answers to rows: the model continues each row's prompt, and the answer is compared with the expected text.

use serde_json::Value;

use super::engine::{Stop, complete};
use super::sampler::Sampling;
use crate::Result;
use crate::base::BaseModel;
use crate::data::train_row::{IGNORE, TrainRow};
use crate::model::{Decoder, Pass};

/// Sequences that are decoded together; their key/value caches share the memory.
const BATCH: usize = 32;

/// A row as a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Everything before the last supervised run of tokens.
    pub prompt: Vec<u32>,
    /// Text of that run, without special tokens, trimmed.
    pub expected: String,
}

impl Question {
    /// The last answer of a row is what is asked for; `None` for a row without a prompt or an answer.
    pub fn of(row: &TrainRow, base: &BaseModel) -> Result<Option<Self>> {
        let Some(end) = row.labels.iter().rposition(|l| *l != IGNORE).map(|i| i + 1) else { return Ok(None) };
        let start = row.labels[..end].iter().rposition(|l| *l == IGNORE).map_or(0, |i| i + 1);
        if start == 0 {
            return Ok(None);
        }
        let expected = base.tokenizer.decode(&row.input_ids[start..end], true)?.trim().to_string();
        Ok(Some(Question { prompt: row.input_ids[..start].to_vec(), expected }))
    }
}

/// The greedy answer to every question, trimmed, in order.
pub fn answer(
    model: &Decoder,
    pass: &Pass<'_>,
    base: &BaseModel,
    questions: &[Question],
    max_new: usize,
    progress: impl FnMut(usize),
) -> Result<Vec<String>> {
    let prompts: Vec<Vec<u32>> = questions.iter().map(|q| q.prompt.clone()).collect();
    let stop = Stop { max_new, ids: base.stop_ids()? };
    let tokens = complete(model, pass, &prompts, BATCH, Sampling::GREEDY, &stop, progress)?;
    tokens.iter().map(|t| Ok(base.tokenizer.decode(t, true)?.trim().to_string())).collect()
}

/// The answer to the last message of a chat, without special tokens.
///
/// # Errors
/// The model has no chat template, or the template refuses the messages.
pub fn reply(
    model: &Decoder,
    pass: &Pass<'_>,
    base: &BaseModel,
    messages: &[Value],
    sampling: Sampling,
    max_new: usize,
) -> Result<String> {
    let prompts = [base.prompt(messages)?];
    let stop = Stop { max_new, ids: base.stop_ids()? };
    let tokens = complete(model, pass, &prompts, 1, sampling, &stop, |_| {})?;
    Ok(base.tokenizer.decode(&tokens[0], true)?.trim().to_string())
}
