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
    pub(super) fn prefix(&self, whole: &Rendered, count: usize) -> std::result::Result<usize, Problem> {
        let prompt = if count == 0 {
            self.header_alone(whole)?
        } else {
            self.render(&self.messages[..count], true)?.text
        };
        if whole.text.starts_with(&prompt) {
            return Ok(prompt.len());
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
        let same = whole.text.char_indices().zip(other.chars()).find(|((_, a), b)| a != b);
        Ok(whole.text[..same.map_or(0, |((at, _), _)| at)].to_string())
    }

    /// Byte ranges of what the assistant wrote, with the end-of-turn token, in messages from `first` on.
    pub(super) fn assistant_spans(
        &self,
        whole: &Rendered,
        end_of_turn: Option<&str>,
        first: usize,
    ) -> std::result::Result<Vec<Range<usize>>, Problem> {
        if self.template.has_generation() {
            let extended = whole.assistant_spans.iter().map(|span| {
                // Some templates close the block before the token that ends the turn.
                let follows = end_of_turn.filter(|end| whole.text[span.end..].starts_with(*end));
                span.start..span.end + follows.map_or(0, str::len)
            });
            return Ok(extended.collect());
        }
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (k, message) in self.messages.iter().enumerate().skip(first) {
            if message["role"] != "assistant" {
                continue;
            }
            let start = self.prefix(whole, k)?;
            let with_answer = self.render(&self.messages[..=k], false)?.text;
            let end = match end_of_turn {
                // A template may write the last message of a chat in another way than one in its middle.
                _ if whole.text.starts_with(&with_answer) && with_answer.len() >= start => {
                    end_of_answer(&whole.text[start..with_answer.len()], end_of_turn)
                }
                Some(end) => whole.text[start..].find(end).map(|at| at + end.len()),
                None => None,
            };
            let end = start + end.ok_or_else(|| unfindable(k))?;
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

/// Length of an answer with its end-of-turn token, without what the template writes after it.
fn end_of_answer(text: &str, end_of_turn: Option<&str>) -> Option<usize> {
    let marked = end_of_turn.and_then(|end| text.rfind(end).map(|at| at + end.len()));
    Some(marked.unwrap_or_else(|| text.trim_end().len()))
}

/// The special token that a template writes after an assistant's message.
pub(super) fn end_of_turn(tokenizer: &Tokenizer, template: &ChatTemplate) -> Option<(String, u32)> {
    const PROBE: &str = "Qprobe7";
    let messages = [json!({"role": "user", "content": "x"}), json!({"role": "assistant", "content": PROBE})];
    let rendered = template.render(&messages, None, &RenderOptions::default()).ok()?;
    let (_, tail) = rendered.text.rsplit_once(PROBE)?;
    let encoded = tokenizer.encode(tail.trim_start()).ok()?;
    let (&id, &(from, to)) = (encoded.ids.first()?, encoded.offsets.first()?);
    let text = tail.trim_start().get(from..to)?;
    tokenizer.is_special(id).then(|| (text.to_string(), id))
}
