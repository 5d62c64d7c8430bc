//! Words of control tokens in what messages say: a user who writes `<|im_end|>` must not end a turn.
//!
//! Such a word gets a mark behind its first character before the template renders the messages, so that it is no word
//! for the tokenizer; the mark is taken out again where the text between two real control tokens is tokenized.

use regex::Regex;
use serde_json::Value;

use crate::data::tokenizer::Tokenizer;

/// Finds the words of a tokenizer's control tokens.
#[derive(Debug)]
pub(crate) struct ControlWords {
    pattern: Option<Regex>,
}

impl ControlWords {
    pub(crate) fn of(tokenizer: &Tokenizer) -> Self {
        let mut words = tokenizer.control_words();
        // Of two words that begin alike the longer one is meant.
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        let words: Vec<String> = words.iter().map(|word| regex::escape(word)).collect();
        let pattern = (!words.is_empty()).then(|| Regex::new(&words.join("|")).ok()).flatten();
        ControlWords { pattern }
    }

    /// Marks the words in what messages and tools say; gives the mark, if there are any.
    pub(crate) fn shield(&self, messages: &mut [Value], tools: Option<&mut Vec<Value>>) -> Option<char> {
        let pattern = self.pattern.as_ref()?;
        let all: Vec<&mut Value> = messages.iter_mut().chain(tools.into_iter().flatten()).collect();
        if !all.iter().any(|value| any_text(value, &|text| pattern.is_match(text))) {
            return None;
        }
        // Characters that Unicode keeps out of texts; one that is in this text all the same is not the mark.
        let free = |mark: &char| !all.iter().any(|value| any_text(value, &|text| text.contains(*mark)));
        let mark = ('\u{fdd0}'..='\u{fdee}').find(free)?;
        all.into_iter().for_each(|value| each_text(value, &|text| marked(pattern, text, mark)));
        Some(mark)
    }
}

/// A text whose words are marked; none if it has none.
fn marked(pattern: &Regex, text: &str, mark: char) -> Option<String> {
    let mut out = String::new();
    let mut done = 0;
    for word in pattern.find_iter(text) {
        let first = word.as_str().chars().next().map_or(0, char::len_utf8);
        out += &text[done..word.start() + first];
        out.push(mark);
        done = word.start() + first;
    }
    (done > 0).then(|| out + &text[done..])
}

/// Whether a text in a value (not a name, not a role) is such.
fn any_text(value: &Value, is: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, is)),
        Value::Object(fields) => fields.iter().any(|(name, value)| name != "role" && any_text(value, is)),
        _ => false,
    }
}

fn each_text(value: &mut Value, change: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(changed) = change(text) {
                *text = changed;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Value::Object(fields) => {
            fields
                .iter_mut()
                .filter(|(name, _)| *name != "role")
                .for_each(|(_, value)| each_text(value, change));
        }
        _ => {}
    }
}
