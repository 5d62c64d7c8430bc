//! Arguments of tool calls as text, for templates that need them so.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, Serializer};
use std::io::{Result, Write};

/// Turns the arguments of all calls into text, as Python's `json.dumps` writes it; whether there were any.
pub(super) fn to_text(messages: &mut [Value]) -> bool {
    let mut any = false;
    for message in messages {
        for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            if !arguments.is_string() {
                *arguments = Value::String(dumped(arguments));
                any = true;
            }
        }
    }
    any
}

fn dumped(value: &Value) -> String {
    let mut bytes = Vec::new();
    // Writing a JSON value into memory does not fail.
    let done = value.serialize(&mut Serializer::with_formatter(&mut bytes, Spaced));
    done.ok().and_then(|()| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// A space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> Result<()> {
        writer.write_all(b": ")
    }
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
                {"function": {"name": "f", "arguments": {"a": [1, "b"], "c": {"d": null}}}},
                {"function": {"name": "g", "arguments": "{}"}},
            ]}),
        ];
        assert!(to_text(&mut messages));
        let text = "{\"a\": [1, \"b\"], \"c\": {\"d\": null}}";
        assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], text);
        assert!(!to_text(&mut messages));
    }
}
