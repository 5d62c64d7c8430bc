//! Where in a rendered chat the assistant's messages stand.

use super::Problem;
use crate::data::chat_template::{ChatTemplate, RenderOptions, Rendered};
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;
use serde_json::{Value, json};
use std::ops::Range;

/// A chat that can be rendered as a whole and in part.
pub(super) struct Chat<'a> {
    pub(super) template: &'a ChatTemplate,
    pub(super) messages: &'a [Value],
    pub(super) tools: Option<&'a [Value]>,
    pub(super) options: RenderOptions,
}

impl Chat<'_> {
    pub(super) fn whole(&self) -> Result<Rendered> {
        self.render(self.messages, false)
    }

    fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<Rendered> {
        let options = RenderOptions { add_generation_prompt, ..self.options.clone() };
        self.template.render(messages, self.tools, &options)
    }

    /// Where the answer after the first `count` messages starts: behind the header of an assistant's turn.
    ///
    /// Some templates of reasoning models open a thought in the header that they write for a new answer and another, or
    /// none, before an answer that is there already. Then what both have in common is the header, provided that the
    /// messages before it are written alike.
    pub(super) fn prefix(&self, whole: &Rendered, count: usize) -> std::result::Result<usize, Problem> {
        if count == 0 {
            return Ok(self.header_alone(whole)?.len());
        }
        let before = &self.messages[..count];
        let prompt = self.render(before, true)?.text;
        let common = common_prefix(&whole.text, &prompt);
        if common == prompt.len() {
            return Ok(common);
        }
        let history = self.render(before, false)?.text.len();
        if common > history && prompt.is_char_boundary(history) && !prompt[history..common].trim().is_empty()
        {
            return Ok(common);
        }
        Err(Problem::new(
            format!(
                "message {count}: the chat template writes the messages before it differently when more follow, so its tokens cannot be told apart"
            ),
            "split the chat into rows that end with each answer, use data.supervise=all, or a template with {% generation %} blocks",
        ))
    }

    /// The start of a chat whose first message is the assistant's: what does not change with the message's content.
    fn header_alone(&self, whole: &Rendered) -> std::result::Result<String, Problem> {
        let mut messages = self.messages.to_vec();
        let first = messages[0]["content"].as_str().and_then(|text| text.trim_start().chars().next());
        // A content that differs from the real one in its first character.
        messages[0]["content"] = json!(if first == Some('a') { "b" } else { "a" });
        let other = self.render(&messages, false)?.text;
        Ok(whole.text[..common_prefix(&whole.text, &other)].to_string())
    }

    /// Byte ranges of what the assistant wrote, with the end-of-turn token, in messages from `first` on.
    pub(super) fn assistant_spans(
        &self,
        whole: &Rendered,
        ends: &EndOfTurn,
        first: usize,
    ) -> std::result::Result<Vec<Range<usize>>, Problem> {
        if self.template.has_generation() {
            let spans = whole.assistant_spans.iter().map(|span| {
                // Some blocks close before the token that ends the turn, some after the line break behind it.
                let follows = ends.marks.iter().find(|mark| whole.text[span.end..].starts_with(&mark.text));
                match (follows, ends.last_in(&whole.text[span.clone()])) {
                    (Some(mark), _) => span.start..span.end + mark.text.len(),
                    (None, Some(at)) if whole.text[span.start + at..span.end].trim().is_empty() => {
                        span.start..span.start + at
                    }
                    (None, _) => span.clone(),
                }
            });
            return Ok(spans.collect());
        }
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (k, message) in self.messages.iter().enumerate().skip(first) {
            if message["role"] != "assistant" {
                continue;
            }
            let start = self.prefix(whole, k)?;
            let answered = self.render(&self.messages[..=k], false)?.text;
            let length = if whole.text.starts_with(&answered) && answered.len() >= start {
                let answer = &answered[start..];
                Some(ends.last_in(answer).unwrap_or_else(|| answer.trim_end().len()))
            } else {
                // The template writes the last message of a chat in another way than one in its middle.
                ends.first_in(&whole.text[start..])
            };
            let end = start + length.ok_or_else(|| unfindable(k))?;
            if spans.last().is_some_and(|previous| previous.end > start) {
                return Err(unfindable(k));
            }
            spans.push(start..end);
        }
        Ok(spans)
    }
}

fn unfindable(k: usize) -> Problem {
    Problem::new(
        format!("message {k}: its end cannot be found in the rendered chat"),
        "split the chat into rows that end with each answer, use data.supervise=all, or a template with {% generation %} blocks",
    )
}

/// Bytes that two texts have in common at their start.
fn common_prefix(a: &str, b: &str) -> usize {
    a.char_indices().zip(b.chars()).find(|((_, x), y)| x != y).map_or(a.len().min(b.len()), |((at, _), _)| at)
}

/// How a template ends an assistant's turn. Usually that is one special token; some write two, and some another one at
/// the end of a chat than in its middle.
#[derive(Clone, Debug, Default)]
pub(super) struct EndOfTurn {
    pub(super) marks: Vec<Mark>,
}

/// Special tokens at the end of a turn.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) text: String,
    /// The last of them.
    pub(super) id: u32,
}

impl EndOfTurn {
    /// Finds out what the template writes behind an answer.
    pub(super) fn of(tokenizer: &Tokenizer, template: &ChatTemplate) -> EndOfTurn {
        let last = special_tokens_after_answer(tokenizer, template, false).unwrap_or_default();
        let middle = special_tokens_after_answer(tokenizer, template, true).unwrap_or_else(|| last.clone());
        // In the middle the header of the next message may follow at once.
        let same = last.iter().zip(&middle).take_while(|(a, b)| a == b).count();
        let mark = |tokens: &[(String, u32)]| {
            let (_, id) = tokens.last()?;
            Some(Mark { text: tokens.iter().map(|(text, _)| text.as_str()).collect(), id: *id })
        };
        let marks = match (same, last.is_empty()) {
            // Without a token at the end of a chat, one in its middle is the next header's.
            (0, true) => Vec::new(),
            (0, false) => mark(&last[..1]).into_iter().chain(mark(&middle[..middle.len().min(1)])).collect(),
            (same, _) => mark(&last[..same]).into_iter().collect(),
        };
        EndOfTurn { marks }
    }

    /// Where the last mark in a text ends.
    fn last_in(&self, text: &str) -> Option<usize> {
        self.marks.iter().filter_map(|mark| text.rfind(&mark.text).map(|at| at + mark.text.len())).max()
    }

    /// Where the first mark in a text ends.
    fn first_in(&self, text: &str) -> Option<usize> {
        self.marks.iter().filter_map(|mark| text.find(&mark.text).map(|at| at + mark.text.len())).min()
    }
}

/// The special tokens right behind an answer, with or without a message after it.
fn special_tokens_after_answer(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    followed: bool,
) -> Option<Vec<(String, u32)>> {
    const PROBE: &str = "Qprobe7";
    let mut messages =
        vec![json!({"role": "user", "content": "x"}), json!({"role": "assistant", "content": PROBE})];
    if followed {
        messages.push(json!({"role": "user", "content": "y"}));
    }
    let rendered = template.render(&messages, None, &RenderOptions::default()).ok()?;
    let (_, tail) = rendered.text.rsplit_once(PROBE)?;
    let tail = tail.trim_start();
    let encoded = tokenizer.encode(tail).ok()?;
    let tokens = encoded.ids.iter().zip(&encoded.offsets).take_while(|(id, _)| tokenizer.is_special(**id));
    Some(tokens.filter_map(|(&id, &(from, to))| Some((tail.get(from..to)?.to_string(), id))).collect())
}
