//! What an assistant thought before its answer: where a message has it, and where a rendered chat does.

use std::ops::Range;

use serde_json::Value;

use super::problem::Problem;

/// Fields of a message that hold its thought.
const FIELDS: [&str; 3] = ["reasoning_content", "reasoning", "thinking"];

/// What templates write around a thought.
const TAGS: [(&str, &str); 4] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
];

/// The thought of an answer: in a field of its own, or in its text.
pub(super) fn thought(message: &Value) -> Option<String> {
    let field = FIELDS.iter().find_map(|name| message[*name].as_str());
    let text = match field {
        Some(thought) => thought,
        None => {
            let content = message["content"].as_str()?;
            &content[in_text(content)?]
        }
    };
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

/// Where the thought stands in the text of a message, without its tags. Some models write only the closing one.
fn in_text(content: &str) -> Option<Range<usize>> {
    let end = content.find("</think>")?;
    let start = content[..end].find("<think>").map_or(0, |at| at + "<think>".len());
    Some(start..end)
}

/// Whether a message has a thought, an empty one counts too if it is in the text.
pub(super) fn has_thought_tags(message: &Value) -> bool {
    thought(message).is_some() || message["content"].as_str().is_some_and(|text| text.contains("</think>"))
}

/// Bytes of the empty thought that a text begins with. A template writes it before an answer without one; to learn it
/// would be to learn not to think.
pub(super) fn empty_thought(text: &str) -> usize {
    let behind = |text: &'_ str| -> Option<usize> {
        let rest = text.trim_start().strip_prefix("<think>")?.trim_start().strip_prefix("</think>")?;
        Some(text.len() - rest.trim_start_matches(['\n', '\r']).len())
    };
    behind(text).unwrap_or(0)
}

/// Takes the thoughts out of the assistant's messages; how many there were.
///
/// # Errors
/// A message that is nothing but a thought.
pub(super) fn drop_thoughts(messages: &mut [Value]) -> Result<usize, Problem> {
    let mut dropped = 0;
    for (k, message) in messages.iter_mut().enumerate() {
        if message["role"] != "assistant" {
            continue;
        }
        let Value::Object(fields) = message else { continue };
        let mut any = false;
        for name in FIELDS {
            any |= fields
                .shift_remove(name)
                .is_some_and(|thought| thought.as_str().is_some_and(|t| !t.trim().is_empty()));
        }
        match fields.get_mut("content") {
            Some(Value::String(content)) => any |= drop_from(content),
            Some(Value::Array(parts)) => {
                let count = parts.len();
                parts.retain(|part| !["thinking", "reasoning"].iter().any(|kind| part["type"] == *kind));
                any |= parts.len() < count;
                if let Some(Value::String(text)) = parts.first_mut().and_then(|part| part.get_mut("text")) {
                    any |= drop_from(text);
                }
            }
            _ => {}
        }
        let is_empty = match fields.get("content") {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.trim().is_empty(),
            Some(Value::Array(parts)) => {
                parts.iter().all(|part| part["text"].as_str().is_some_and(|text| text.trim().is_empty()))
            }
            Some(_) => false,
        };
        if any && is_empty && !fields.contains_key("tool_calls") {
            return Err(Problem::new(
                format!("message {k} is nothing but a thought, which data.reasoning=drop takes away"),
                "take the row out of the file, or use data.reasoning=mask",
            ));
        }
        dropped += usize::from(any);
    }
    Ok(dropped)
}

/// Takes the thought that a text begins with away.
fn drop_from(content: &mut String) -> bool {
    let Some(thought) = in_text(content) else { return false };
    let before = &content[..thought.start];
    if !before.trim_start().is_empty() && before.trim() != "<think>" {
        return false;
    }
    let rest = content[thought.end + "</think>".len()..].trim_start().to_string();
    let any = !content[thought].trim().is_empty();
    *content = rest;
    any
}

/// The message with another thought, which differs from its own in the first and the last character.
pub(super) fn with_other_thought(message: &Value) -> Option<Value> {
    let own = thought(message)?;
    let unlike = |letter: Option<char>| if letter == Some('a') { 'b' } else { 'a' };
    let other = format!("{}x{}", unlike(own.chars().next()), unlike(own.chars().next_back()));
    let mut message = message.clone();
    let mut replaced = false;
    for name in FIELDS {
        if message[name].is_string() {
            message[name] = Value::String(other.clone());
            replaced = true;
        }
    }
    if !replaced {
        let content = message["content"].as_str()?;
        let Range { start, end } = in_text(content)?;
        let inside = &content[start..end];
        let lead = inside.len() - inside.trim_start().len();
        let text = format!("{}{other}{}", &content[..start + lead], &content[start + lead + own.len()..]);
        message["content"] = Value::String(text);
    }
    Some(message)
}

/// Where the thought of the last message stands in a rendered chat, with its tags and the line breaks behind them, by the
/// same chat with another thought.
pub(super) fn place(text: &str, other: &str) -> Option<Range<usize>> {
    if text == other {
        return None;
    }
    let same = text.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    let room = text.len().min(other.len()) - same;
    let behind = text.bytes().rev().zip(other.bytes().rev()).take(room).take_while(|(a, b)| a == b).count();
    let mut start = (0..=same).rev().find(|&at| text.is_char_boundary(at))?;
    let mut end = (text.len() - behind..=text.len()).find(|&at| text.is_char_boundary(at))?;
    for (open, close) in TAGS {
        if let Some(rest) = text[..start].trim_end().strip_suffix(open) {
            start = rest.len();
        }
        if let Some(rest) = text[end..].trim_start().strip_prefix(close) {
            end = text.len() - rest.trim_start_matches(['\n', '\r']).len();
        }
    }
    Some(start..end)
}

/// The spans without what lies in a range.
pub(super) fn without(spans: Vec<Range<usize>>, range: &Range<usize>) -> Vec<Range<usize>> {
    let cut = |span: Range<usize>| {
        let before = span.start..span.end.min(range.start.max(span.start));
        let after = span.start.max(range.end.min(span.end))..span.end;
        if range.end <= span.start || range.start >= span.end { vec![span] } else { vec![before, after] }
    };
    spans.into_iter().flat_map(cut).filter(|span| !span.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn thoughts_are_dropped_from_fields_texts_and_parts() {
        let mut messages = vec![
            json!({"role": "user", "content": "<think>mine</think> hi"}),
            json!({"role": "assistant", "content": "<think>\nwhy\n</think>\n\nBecause </think> is a tag."}),
            json!({"role": "assistant", "content": "so </think>\nYes."}),
            json!({"role": "assistant", "content": "No.", "reasoning_content": "hm", "thinking": "hm"}),
            json!({"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "Ok."}]}),
            json!({"role": "assistant", "content": "Write <think> a </think> by hand."}),
            json!({"role": "assistant", "content": "", "reasoning": "call", "tool_calls": []}),
        ];
        assert_eq!(drop_thoughts(&mut messages).unwrap(), 5);
        let expected = json!([
            {"role": "user", "content": "<think>mine</think> hi"},
            {"role": "assistant", "content": "Because </think> is a tag."},
            {"role": "assistant", "content": "Yes."},
            {"role": "assistant", "content": "No."},
            {"role": "assistant", "content": [{"type": "text", "text": "Ok."}]},
            {"role": "assistant", "content": "Write <think> a </think> by hand."},
            {"role": "assistant", "content": "", "tool_calls": []},
        ]);
        assert_eq!(json!(messages), expected);
        let mut only = vec![json!({"role": "assistant", "content": "<think>x</think>"})];
        assert!(drop_thoughts(&mut only).unwrap_err().text.contains("nothing but a thought"));
    }

    #[test]
    fn spans_lose_what_lies_in_a_range() {
        let cut = |range: Range<usize>| without(vec![2..5, 7..10], &range);
        assert_eq!(cut(0..2), [2..5, 7..10]);
        assert_eq!(cut(2..3), [3..5, 7..10]);
        assert_eq!(cut(3..4), [2..3, 4..5, 7..10]);
        assert_eq!(cut(4..8), [2..4, 8..10]);
        assert!(cut(0..12).is_empty());
    }
}
