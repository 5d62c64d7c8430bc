//! The shapes of a row and what each becomes.

use crate::run_config::DataFormat;
use serde_json::{Map, Value, json};

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// Plain text.
    Text(String),
    /// A prompt and what should follow it.
    Completion {
        /// The prompt.
        prompt: String,
        /// What should follow.
        completion: String,
    },
    /// Messages for the chat template.
    Chat {
        /// The messages, objects with `role` and usually `content`.
        messages: Vec<Value>,
        /// How many of them are only context: assistant messages before are not supervised.
        prompt_messages: usize,
        /// Functions that the model may call.
        tools: Option<Vec<Value>>,
        /// Further variables for the template (`chat_template_kwargs` of the row).
        extra: Map<String, Value>,
    },
    /// Ready-made token ids.
    Tokens {
        /// The ids.
        input_ids: Vec<u32>,
        /// As long as `input_ids`, not shifted; -100 is not supervised.
        labels: Vec<i32>,
    },
}

/// Names that other data sets use for the roles of a chat.
pub const ROLE_ALIASES: &[(&str, &str)] = &[
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("function_call", "assistant"),
    ("observation", "tool"),
    ("function_response", "tool"),
];

/// The shapes in the words of a hint.
pub(super) const KNOWN: &str = "known rows: {\"messages\": [...]}, {\"conversations\": [...]}, {\"prompt\", \"completion\"}, \
                                {\"instruction\", \"input\", \"output\"}, {\"text\"}, {\"input_ids\", \"labels\"}";

/// What is wrong with a row, and a hint.
pub(super) type Problem = (String, Option<String>);

fn problem<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err((text.into(), None))
}

/// A shape that rows of a file share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Messages,
    Completion,
    Instruction,
    Tokens,
    Text,
}

impl Shape {
    /// The shape that the run file asks for.
    pub(super) fn of_format(format: DataFormat) -> Option<Shape> {
        match format {
            DataFormat::Auto => None,
            DataFormat::Text => Some(Shape::Text),
            DataFormat::PromptCompletion => Some(Shape::Completion),
            DataFormat::Instruction => Some(Shape::Instruction),
            DataFormat::Messages => Some(Shape::Messages),
            DataFormat::Tokens => Some(Shape::Tokens),
        }
    }

    /// The shape that a row looks like; the most specific wins.
    pub(super) fn detect(fields: &Map<String, Value>) -> Result<Shape, Problem> {
        let has = |name: &str| fields.contains_key(name);
        Ok(match () {
            () if has("messages") || has("conversations") => Shape::Messages,
            () if has("prompt") && has("completion") => Shape::Completion,
            () if has("instruction") && has("output") => Shape::Instruction,
            () if has("input_ids") => Shape::Tokens,
            () if has("text") => Shape::Text,
            () => return Err((format!("no known shape: {}", found(fields)), Some(KNOWN.to_string()))),
        })
    }

    /// Reads a row of this shape.
    pub(super) fn example(self, fields: Map<String, Value>, has_template: bool) -> Result<Example, Problem> {
        match self {
            Shape::Text => {
                let text = text(&fields, "text")?;
                if text.is_empty() { problem("`text` is empty") } else { Ok(Example::Text(text.to_string())) }
            }
            Shape::Completion => completion(&fields),
            Shape::Instruction => instruction(&fields, has_template),
            Shape::Messages => chat(&fields),
            Shape::Tokens => tokens(&fields),
        }
    }
}

fn found(fields: &Map<String, Value>) -> String {
    if fields.is_empty() {
        return "found an empty object".to_string();
    }
    let names: Vec<String> = fields.keys().take(12).map(|name| format!("`{name}`")).collect();
    format!("found {}", names.join(", "))
}

/// The kind of a value in the words of a message.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Problem> {
    fields.get(name).ok_or_else(|| (format!("no `{name}`: {}", found(fields)), Some(KNOWN.to_string())))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Problem> {
    match field(fields, name)? {
        Value::String(text) => Ok(text),
        other => problem(format!("`{name}` is {}, expected text", kind(other))),
    }
}

/// Text that may be missing or null.
fn optional<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, Problem> {
    if fields.get(name).is_none_or(Value::is_null) { Ok("") } else { text(fields, name) }
}

fn completion(fields: &Map<String, Value>) -> Result<Example, Problem> {
    match (field(fields, "prompt")?, field(fields, "completion")?) {
        (Value::Array(prompt), Value::Array(completion)) => {
            let mut all = messages(prompt, "prompt")?;
            let prompt_messages = all.len();
            all.extend(messages(completion, "completion")?);
            if all.len() == prompt_messages {
                return problem("`completion` is empty");
            }
            Ok(Example::Chat { messages: all, prompt_messages, tools: tools(fields)?, extra: extra(fields)? })
        }
        (Value::Array(_), other) | (other, Value::Array(_)) => problem(format!(
            "`prompt` and `completion` must both be text or both be lists of messages; one is {}",
            kind(other)
        )),
        _ => {
            let (prompt, completion) = (text(fields, "prompt")?, text(fields, "completion")?);
            if prompt.is_empty() && completion.is_empty() {
                return problem("`prompt` and `completion` are both empty");
            }
            Ok(Example::Completion { prompt: prompt.to_string(), completion: completion.to_string() })
        }
    }
}

fn instruction(fields: &Map<String, Value>, has_template: bool) -> Result<Example, Problem> {
    let instruction = text(fields, "instruction")?;
    let input = optional(fields, "input")?;
    let output = text(fields, "output")?;
    if instruction.is_empty() && input.is_empty() {
        return problem("`instruction` is empty");
    }
    let question = match (instruction.is_empty(), input.is_empty()) {
        (false, false) => format!("{instruction}\n\n{input}"),
        (false, true) => instruction.to_string(),
        (true, _) => input.to_string(),
    };
    if !has_template {
        let prompt = if input.is_empty() {
            format!("### Instruction:\n{question}\n\n### Response:\n")
        } else {
            format!("### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n")
        };
        return Ok(Example::Completion { prompt, completion: output.to_string() });
    }
    let mut messages = Vec::new();
    let system = optional(fields, "system")?;
    if !system.is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": question}));
    messages.push(json!({"role": "assistant", "content": output}));
    Ok(Example::Chat { messages, prompt_messages: 0, tools: tools(fields)?, extra: extra(fields)? })
}

fn chat(fields: &Map<String, Value>) -> Result<Example, Problem> {
    let name = if fields.contains_key("conversations") && !fields.contains_key("messages") {
        "conversations"
    } else {
        "messages"
    };
    let Value::Array(list) = field(fields, name)? else {
        return problem(format!("`{name}` is {}, expected a list of messages", kind(&fields[name])));
    };
    let mut messages = messages(list, name)?;
    if messages.is_empty() {
        return problem(format!("`{name}` is empty"));
    }
    let system = optional(fields, "system")?;
    if !system.is_empty() && messages[0]["role"] != "system" {
        messages.insert(0, json!({"role": "system", "content": system}));
    }
    Ok(Example::Chat { messages, prompt_messages: 0, tools: tools(fields)?, extra: extra(fields)? })
}

fn messages(list: &[Value], name: &str) -> Result<Vec<Value>, Problem> {
    list.iter()
        .enumerate()
        .map(|(i, value)| message(value).map_err(|e| (format!("{name}[{i}]: {}", e.0), e.1)))
        .collect()
}

fn message(value: &Value) -> Result<Value, Problem> {
    let hint = "a message looks like {\"role\": \"user\", \"content\": \"...\"} or {\"from\": \"human\", \"value\": \"...\"}";
    let Value::Object(fields) = value else {
        return Err((format!("found {}, expected a message", kind(value)), Some(hint.to_string())));
    };
    let mut fields = fields.clone();
    for (from, to) in [("from", "role"), ("value", "content")] {
        if !fields.contains_key(to)
            && let Some(value) = fields.shift_remove(from)
        {
            fields.insert(to.to_string(), value);
        }
    }
    let Some(role) = fields.get("role") else {
        return Err((format!("no `role`: {}", found(&fields)), Some(hint.to_string())));
    };
    let Value::String(role) = role else {
        return problem(format!("`role` is {}, expected text", kind(role)));
    };
    if let Some((_, known)) = ROLE_ALIASES.iter().find(|(alias, _)| alias == role) {
        fields.insert("role".to_string(), json!(known));
    }
    match fields.get("content") {
        Some(Value::String(_) | Value::Array(_)) => {}
        None | Some(Value::Null) if fields.contains_key("tool_calls") => {}
        None => return Err((format!("no `content`: {}", found(&fields)), Some(hint.to_string()))),
        Some(other) => {
            return problem(format!("`content` is {}, expected text or a list of parts", kind(other)));
        }
    }
    Ok(Value::Object(fields))
}

/// Tools as a list, or as the text of one: columnar files often keep them so.
fn tools(fields: &Map<String, Value>) -> Result<Option<Vec<Value>>, Problem> {
    let parsed: Value;
    let value = match fields.get("tools") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => {
            parsed = serde_json::from_str(text)
                .map_err(|e| (format!("`tools` is text but not JSON: {e}"), None))?;
            &parsed
        }
        Some(other) => other,
    };
    match value {
        Value::Array(tools) if tools.is_empty() => Ok(None),
        Value::Array(tools) => Ok(Some(tools.clone())),
        other => problem(format!("`tools` is {}, expected a list", kind(other))),
    }
}

fn extra(fields: &Map<String, Value>) -> Result<Map<String, Value>, Problem> {
    match fields.get("chat_template_kwargs") {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(extra)) => Ok(extra.clone()),
        Some(other) => problem(format!("`chat_template_kwargs` is {}, expected an object", kind(other))),
    }
}

fn tokens(fields: &Map<String, Value>) -> Result<Example, Problem> {
    let numbers = |name: &str| -> Result<Vec<i64>, Problem> {
        let Value::Array(list) = field(fields, name)? else {
            return problem(format!("`{name}` is {}, expected a list of numbers", kind(&fields[name])));
        };
        let bad = |i: usize| (format!("{name}[{i}] is not a whole number"), None);
        list.iter().enumerate().map(|(i, v)| v.as_i64().ok_or_else(|| bad(i))).collect()
    };
    let ids = numbers("input_ids")?;
    if ids.is_empty() {
        return problem("`input_ids` is empty");
    }
    let input_ids: Vec<u32> = ids
        .iter()
        .enumerate()
        .map(|(i, &id)| {
            u32::try_from(id).map_err(|_| (format!("input_ids[{i}] is {id}, not a token id"), None))
        })
        .collect::<Result<_, _>>()?;
    let labels = if fields.contains_key("labels") { numbers("labels")? } else { ids };
    if labels.len() != input_ids.len() {
        return problem(format!(
            "{} labels for {} tokens; they must be equally many",
            labels.len(),
            input_ids.len()
        ));
    }
    let label = |(i, &label): (usize, &i64)| match i32::try_from(label) {
        Ok(label) if label >= 0 || label == -100 => Ok(label),
        _ => problem(format!("labels[{i}] is {label}, expected a token id or -100")),
    };
    let labels = labels.iter().enumerate().map(label).collect::<Result<_, _>>()?;
    Ok(Example::Tokens { input_ids, labels })
}
