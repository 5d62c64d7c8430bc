//! Messages as chat templates expect them, whatever the notation of the row: made once, before anything is rendered.

use super::fields::{Problem, found, kind, problem};
use super::text::{parsed, without_nulls};
use super::{flags, roles};
use crate::data::chat_template::ChatTemplate;
use serde_json::{Map, Value, json};

const HINT: &str = "a message looks like {\"role\": \"user\", \"content\": \"...\"} or {\"from\": \"human\", \"value\": \"...\"}";

/// A message, and whether it says itself that it is trained.
pub(super) struct Message {
    pub(super) value: Value,
    pub(super) trained: Option<bool>,
}

/// Reads all messages of a list that is called `name`.
pub(super) fn read(
    list: &[Value],
    name: &str,
    template: Option<&ChatTemplate>,
) -> Result<Vec<Message>, Problem> {
    list.iter()
        .enumerate()
        .map(|(i, value)| message(value, template).map_err(|e| (format!("{name}[{i}]: {}", e.0), e.1)))
        .collect()
}

fn message(value: &Value, template: Option<&ChatTemplate>) -> Result<Message, Problem> {
    let Value::Object(fields) = value else {
        return Err((format!("found {}, expected a message", kind(value)), Some(HINT.to_string())));
    };
    // Null is what a file of columns has for a field that the message lacks.
    let mut fields: Map<String, Value> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    for (from, to) in [("from", "role"), ("value", "content")] {
        if !fields.contains_key(to)
            && let Some(value) = fields.shift_remove(from)
        {
            fields.insert(to.to_string(), value);
        }
    }
    let Some(role) = fields.get("role") else {
        return Err((format!("no `role`: {}", found(&fields)), Some(HINT.to_string())));
    };
    let Value::String(role) = role else {
        return problem(format!("`role` is {}, expected text", kind(role)));
    };
    let mut role = roles::role(role, template)?;
    let trained = flags::of_message(&mut fields)?;
    if role == roles::CALL {
        call_as_text(&mut fields)?;
        role = "assistant".to_string();
    }
    let is_answer = role == "assistant";
    fields.insert("role".to_string(), Value::String(role));
    if is_answer {
        legacy_call(&mut fields);
        tool_calls(&mut fields)?;
    }
    content(&mut fields, is_answer, template)?;
    Ok(Message { value: Value::Object(fields), trained })
}

/// A message whose text is the JSON of one call or of several becomes one with calls.
fn call_as_text(fields: &mut Map<String, Value>) -> Result<(), Problem> {
    let calls = match fields.shift_remove("content") {
        Some(Value::String(text)) => parsed(&text, "content").map_err(|(text, _)| {
            let hint = "a call looks like {\"name\": \"...\", \"arguments\": {...}}".to_string();
            (format!("the call of a tool: {text}"), Some(hint))
        })?,
        Some(other) => other,
        None => return problem("the call of a tool has no content"),
    };
    let calls = if let Value::Array(list) = calls { list } else { vec![calls] };
    fields.insert("tool_calls".to_string(), Value::Array(calls));
    Ok(())
}

/// OpenAI's older `function_call` is the only call of its message.
fn legacy_call(fields: &mut Map<String, Value>) {
    if !fields.contains_key("tool_calls")
        && let Some(call @ Value::Object(_)) = fields.get("function_call").cloned()
    {
        fields.shift_remove("function_call");
        fields.insert("tool_calls".to_string(), json!([call]));
    }
}

fn tool_calls(fields: &mut Map<String, Value>) -> Result<(), Problem> {
    let Some(value) = fields.get("tool_calls") else { return Ok(()) };
    let list = super::text::list(value, "tool_calls")?;
    let one =
        |(i, call): (usize, &Value)| tool_call(call).map_err(|e| (format!("tool_calls[{i}]: {}", e.0), e.1));
    let calls = list.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
    // None is like no field: templates ask whether it is there.
    if calls.is_empty() {
        fields.shift_remove("tool_calls");
    } else {
        fields.insert("tool_calls".to_string(), Value::Array(calls));
    }
    Ok(())
}

/// A call in the usual form, its arguments an object: as text they would be quoted a second time.
fn tool_call(call: &Value) -> Result<Value, Problem> {
    let Value::Object(call) = call else {
        return problem(format!("found {}, expected a call", kind(call)));
    };
    let mut call = match call.get("function") {
        Some(Value::Object(_)) => call.clone(),
        _ => Map::from_iter([
            ("type".to_string(), json!("function")),
            ("function".to_string(), Value::Object(call.clone())),
        ]),
    };
    let Some(Value::Object(function)) = call.get_mut("function") else { return problem("no `function`") };
    match function.get("name") {
        Some(Value::String(name)) if !name.is_empty() => {}
        _ => return problem("no `name` of the function that is called"),
    }
    let arguments = match function.get("arguments") {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => match parsed(text, "arguments")? {
            object @ Value::Object(_) => object,
            _ => Value::String(text.clone()),
        },
        Some(other) => other.clone(),
    };
    function.insert("arguments".to_string(), arguments);
    Ok(Value::Object(call))
}

/// Whether a message's own field holds text.
fn has_text(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
}

fn content(
    fields: &mut Map<String, Value>,
    is_answer: bool,
    template: Option<&ChatTemplate>,
) -> Result<(), Problem> {
    let says_more = is_answer
        && (fields.contains_key("tool_calls")
            || ["reasoning_content", "reasoning", "thinking"].iter().any(|name| has_text(fields, name)));
    let empty = match fields.get("content") {
        None if says_more => return Ok(()),
        None if is_answer => true,
        None => return Err((format!("no `content`: {}", found(fields)), Some(HINT.to_string()))),
        Some(Value::String(text)) => text.trim().is_empty(),
        Some(Value::Array(parts)) => {
            let parts = content_parts(parts, template)?;
            let is_empty = |part: &Value| part["text"].as_str().is_some_and(|text| text.trim().is_empty());
            let empty = parts.iter().all(is_empty);
            fields.insert("content".to_string(), Value::Array(parts));
            empty
        }
        Some(other) => {
            return problem(format!("`content` is {}, expected text or a list of parts", kind(other)));
        }
    };
    if empty && is_answer && !says_more {
        return Err((
            "the answer is empty: it has no `content` and no tool call".to_string(),
            Some("an empty answer would train the model to say nothing; take it out of the file".to_string()),
        ));
    }
    Ok(())
}

/// Parts in the usual form; parts of other kinds than text only if the template names the kind.
fn content_parts(parts: &[Value], template: Option<&ChatTemplate>) -> Result<Vec<Value>, Problem> {
    let part = |(i, part): (usize, &Value)| match part {
        Value::String(text) => Ok(json!({"type": "text", "text": text})),
        Value::Object(_) => {
            let mut part = without_nulls(part);
            let sort = part["type"].as_str().unwrap_or("text").to_string();
            match (sort.as_str(), &part["text"]) {
                ("text", Value::String(_)) => part["type"] = json!("text"),
                ("text", other) => return problem(format!("content[{i}]: `text` is {}", kind(other))),
                (other, _) if template.is_some_and(|template| template.names(other)) => {}
                (other, _) => {
                    return Err((
                        format!("content[{i}] is of type `{other}`, and only text can be trained"),
                        Some("take such rows out of the file".to_string()),
                    ));
                }
            }
            Ok(part)
        }
        other => problem(format!("content[{i}] is {}, expected a part of the text", kind(other))),
    };
    parts.iter().enumerate().map(part).collect()
}

/// The tools of a row: objects, each perhaps kept as text.
pub(super) fn tools(fields: &Map<String, Value>) -> Result<Option<Vec<Value>>, Problem> {
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let (name, value) = match (given("tools"), given("functions")) {
        (Some(value), _) => ("tools", value),
        (None, Some(value)) => ("functions", value),
        (None, None) => return Ok(None),
    };
    if value.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Ok(None);
    }
    let list = super::text::list(value, name)?;
    let tool = |(i, tool): (usize, &Value)| {
        let tool = match tool {
            Value::String(text) => parsed(text, &format!("{name}[{i}]"))?,
            other => other.clone(),
        };
        match tool {
            // OpenAI's older `functions` are the inside of tools.
            Value::Object(_) if name == "functions" => Ok(json!({"type": "function", "function": tool})),
            Value::Object(_) => Ok(tool),
            other => problem(format!("{name}[{i}] is {}, expected the description of a tool", kind(&other))),
        }
    };
    let tools = list.iter().enumerate().map(tool).collect::<Result<Vec<_>, _>>()?;
    Ok((!tools.is_empty()).then_some(tools))
}

/// Further variables of the template that a row brings.
pub(super) fn extra(
    fields: &Map<String, Value>,
    template: Option<&ChatTemplate>,
) -> Result<Map<String, Value>, Problem> {
    let mut extra = match fields.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(extra)) => extra.clone(),
        Some(Value::String(text)) => match parsed(text, "chat_template_kwargs")? {
            Value::Object(extra) => extra,
            other => {
                return problem(format!("`chat_template_kwargs` is {}, expected an object", kind(&other)));
            }
        },
        Some(other) => {
            return problem(format!("`chat_template_kwargs` is {}, expected an object", kind(other)));
        }
    };
    for name in ["tool_choice", "documents"] {
        let Some(value) = fields.get(name).filter(|value| !value.is_null()) else { continue };
        let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_str() == Some("");
        if empty || value == "auto" || extra.contains_key(name) {
            continue;
        }
        if !template.is_some_and(|template| template.uses(name)) {
            return Err((
                format!("`{name}` would be without effect: the chat template does not know it"),
                Some("take the field out of the row, or say in a message what it should".to_string()),
            ));
        }
        extra.insert(name.to_string(), without_nulls(value));
    }
    Ok(extra)
}
