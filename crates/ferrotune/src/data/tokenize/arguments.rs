//! Arguments of tool calls as text, for templates that need them so.

use crate::data::chat_template::dumped;
use serde_json::Value;

/// Turns the arguments of all calls into text, as Python's `json.dumps` writes it; whether there were any.
pub(super) fn to_text(messages: &mut [Value]) -> bool {
    let mut any = false;
    for message in messages {
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            // What is nested too deeply to be written stays, and is the template's to refuse.
            if !arguments.is_string()
                && let Some(text) = dumped(arguments)
            {
                *arguments = Value::String(text);
                any = true;
            }
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_are_written_as_python_does() {
        let mut messages = vec![
            json!({"role": "user", "content": "x"}),
            json!({"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": {"a": [1, "b"], "c": {"d": null, "e": 1e-5}}}},
                {"function": {"name": "g", "arguments": "{}"}},
            ]}),
        ];
        assert!(to_text(&mut messages));
        let text = "{\"a\": [1, \"b\"], \"c\": {\"d\": null, \"e\": 1e-05}}";
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], text);
        assert!(!to_text(&mut messages));
    }
}
