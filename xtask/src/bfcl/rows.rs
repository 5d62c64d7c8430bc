//! Questions as rows of `messages` and `tools`.

use serde_json::{Value, json};

use super::package::Question;
use crate::golden::Failure;

/// A question with its expected calls as a row of JSON.
pub(super) fn row(question: &Question) -> Result<Value, Failure> {
    let calls: Vec<Value> = (question.gold()?.into_iter())
        .map(|call| json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}}))
        .collect();
    let tools: Vec<Value> = question
        .functions
        .iter()
        .map(|f| json!({"type": "function", "function": schema(f.clone())}))
        .collect();
    let mut messages = question.messages.clone();
    messages.push(json!({"role": "assistant", "content": "", "tool_calls": calls}));
    Ok(json!({"messages": messages, "tools": tools}))
}

/// A function with the types of JSON Schema in the place of the package's.
fn schema(mut value: Value) -> Value {
    match &mut value {
        Value::Object(object) => {
            for (key, inner) in object.iter_mut() {
                let word = match (key.as_str(), inner.as_str()) {
                    ("type", Some("dict")) => "object",
                    ("type", Some("float")) => "number",
                    ("type", Some("tuple")) => "array",
                    // The check takes texts alone there.
                    ("type", Some("any")) => "string",
                    _ => {
                        *inner = schema(inner.take());
                        continue;
                    }
                };
                *inner = word.into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| *inner = schema(inner.take())),
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bfcl::check::Mode;

    #[test]
    fn a_question_becomes_a_chat_with_tools_and_the_first_values_that_are_allowed() {
        let field = |kind: &str| json!({"type": kind});
        let properties = json!({
            "type": field("string"), "price": field("float"), "note": field("string"), "box": field("dict"), "free": field("any"),
            "lines": {"type": "array", "items": {"type": "dict", "properties": {"item": field("tuple")}}},
        });
        let function = |properties: Value| json!({"name": "order", "parameters": {"type": "dict", "properties": properties}});
        let question = Question {
            id: "1".into(),
            mode: Mode::Simple,
            messages: vec![json!({"role": "user", "content": "A lamp, please."})],
            functions: vec![function(properties)],
            possible: vec![json!({"order": {
                "type": ["lamp", "light"], "price": [2, ""], "note": ["", "dry"], "box": [{"wide": [3, 4], "name": ["", "x"]}],
                "lines": [[{"item": [[1, 2], "a"]}]],
            }})],
        };
        let row = row(&question).unwrap();
        let arguments = json!({"type": "lamp", "price": 2, "box": {"wide": 3}, "lines": [{"item": [1, 2]}]});
        let answer = json!({"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "order", "arguments": arguments}},
        ]});
        assert_eq!(row["messages"], json!([{"role": "user", "content": "A lamp, please."}, answer]));
        let parameters = &row["tools"][0]["function"]["parameters"];
        assert_eq!(parameters["type"], "object");
        let types = ["type", "price", "note", "box", "free"]
            .map(|name| parameters["properties"][name]["type"].clone());
        assert_eq!(
            types,
            ["string", "number", "string", "object", "string"],
            "an argument may be called type"
        );
        assert_eq!(parameters["properties"]["lines"]["items"]["properties"]["item"]["type"], "array");
    }
}
