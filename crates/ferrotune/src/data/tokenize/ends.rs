//! How a template ends an assistant's turn.

use crate::data::chat_template::{ChatTemplate, ContentForms, RenderOptions};
use crate::data::tokenizer::Tokenizer;
use serde_json::json;

/// What a template writes at the end of an answer. Usually that is one special token; some write two, and some another
/// one at the end of a chat than in its middle.
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
    pub(super) fn probe(tokenizer: &Tokenizer, template: &ChatTemplate, forms: &ContentForms) -> EndOfTurn {
        let after = |followed| special_tokens_after_answer(tokenizer, template, forms, followed);
        let last = after(false).unwrap_or_default();
        let middle = after(true).unwrap_or_else(|| last.clone());
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
    pub(super) fn last_in(&self, text: &str) -> Option<usize> {
        self.marks.iter().filter_map(|mark| text.rfind(&mark.text).map(|at| at + mark.text.len())).max()
    }
}

/// The special tokens right behind an answer, with or without a message after it.
fn special_tokens_after_answer(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    forms: &ContentForms,
    followed: bool,
) -> Option<Vec<(String, u32)>> {
    const PROBE: &str = "Qprobe7";
    let mut messages =
        vec![json!({"role": "user", "content": "x"}), json!({"role": "assistant", "content": PROBE})];
    if followed {
        messages.push(json!({"role": "user", "content": "y"}));
    }
    forms.fit(&mut messages);
    let rendered = template.render(&messages, None, &RenderOptions::default()).ok()?;
    let (_, tail) = rendered.text.rsplit_once(PROBE)?;
    let tail = tail.trim_start();
    let encoded = tokenizer.encode(tail).ok()?;
    let tokens = encoded.ids.iter().zip(&encoded.offsets).take_while(|(id, _)| tokenizer.is_special(**id));
    Some(tokens.filter_map(|(&id, &(from, to))| Some((tail.get(from..to)?.to_string(), id))).collect())
}
