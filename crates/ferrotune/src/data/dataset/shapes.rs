//! The shapes of a row and what each becomes.

pub(super) use super::super::rows::{Fields, Problem, kind};
use super::messages::{self, Message};
use super::{flags, plain, text};
use crate::data::chat_template::ChatTemplate;
use crate::run_config::DataFormat;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

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
    Chat(Chat),
    /// Ready-made token ids.
    Tokens {
        /// The ids.
        input_ids: Vec<u32>,
        /// As long as `input_ids`, not shifted; -100 is not supervised.
        labels: Vec<i32>,
    },
}

/// Messages for the chat template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chat {
    /// The messages, objects with `role` and usually `content`.
    pub messages: Vec<Value>,
    /// How many of them are only context: assistant messages before are not supervised.
    pub prompt_messages: usize,
    /// Further messages that the row asks not to be supervised, by their number.
    pub untrained: Vec<usize>,
    /// Functions that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Further variables for the template (`chat_template_kwargs` of the row).
    pub extra: Map<String, Value>,
}

/// The shapes in the words of a hint.
pub(crate) const KNOWN: &str = "known rows: {\"messages\": [...]}, {\"conversations\": [...]}, {\"prompt\", \"completion\"}, \
                                {\"instruction\", \"input\", \"output\"}, {\"text\"}, {\"input_ids\", \"labels\"}";

pub(super) fn problem<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err((text.into(), None))
}

/// The shape of a row.
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

    /// The shape that a row looks like; the most specific wins. Null is like absent: files that were made of several
    /// have the columns of all of them in every row.
    pub(super) fn detect(fields: &Fields) -> Result<Shape, Problem> {
        let has = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
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
    pub(super) fn example(
        self,
        fields: &Fields,
        template: Option<&ChatTemplate>,
    ) -> Result<Example, Problem> {
        let is_chat = match self {
            Shape::Messages => true,
            Shape::Completion => plain::is_chat(fields)?,
            _ => false,
        };
        flags::check_row(fields, is_chat, self == Shape::Tokens)?;
        match self {
            Shape::Text => plain::text_row(fields),
            Shape::Completion if is_chat => completion_chat(fields, template),
            Shape::Completion => plain::completion(fields),
            Shape::Instruction => plain::instruction(fields, template),
            Shape::Messages => chat(fields, template),
            Shape::Tokens => plain::tokens(fields),
        }
    }
}

/// What a row has, in the words of a message.
pub(super) fn found(fields: &Fields) -> String {
    if fields.is_empty() {
        return "found an empty object".to_string();
    }
    let name = |(name, value): (&String, &Value)| match value {
        Value::Null => format!("`{name}` (null)"),
        _ => format!("`{name}`"),
    };
    let names: Vec<String> = fields.iter().take(12).map(name).collect();
    format!("found {}", names.join(", "))
}

/// A field that must be there; null is like absent.
pub(super) fn field<'a>(fields: &'a Fields, name: &str) -> Result<&'a Value, Problem> {
    let given = fields.get(name).filter(|value| !value.is_null());
    given.ok_or_else(|| (format!("no `{name}`: {}", found(fields)), Some(KNOWN.to_string())))
}

/// Text that must be there.
pub(super) fn text<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Problem> {
    match field(fields, name)? {
        Value::String(text) => Ok(text),
        other => problem(format!("`{name}` is {}, expected text", kind(other))),
    }
}

/// Text that may be missing or null.
pub(super) fn optional<'a>(fields: &'a Fields, name: &str) -> Result<&'a str, Problem> {
    if fields.get(name).is_none_or(Value::is_null) { Ok("") } else { text(fields, name) }
}

fn chat(fields: &Fields, template: Option<&ChatTemplate>) -> Result<Example, Problem> {
    let given = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
    let name = if given("conversations") && !given("messages") { "conversations" } else { "messages" };
    let list = text::list(field(fields, name)?, name)?;
    let messages = messages::read(&list, name, template)?;
    if messages.is_empty() {
        return problem(format!("`{name}` is empty"));
    }
    assembled(fields, messages, 0, template)
}

/// `prompt` and `completion` as lists of messages.
fn completion_chat(fields: &Fields, template: Option<&ChatTemplate>) -> Result<Example, Problem> {
    let list = |name: &str| -> Result<Cow<'_, [Value]>, Problem> { text::list(field(fields, name)?, name) };
    let mut all = messages::read(&list("prompt")?, "prompt", template)?;
    let prompt_messages = all.len();
    all.extend(messages::read(&list("completion")?, "completion", template)?);
    if all.len() == prompt_messages {
        return problem("`completion` is empty");
    }
    assembled(fields, all, prompt_messages, template)
}

/// A chat of the messages of a row and what else the row has.
pub(super) fn assembled(
    fields: &Fields,
    messages: Vec<Message>,
    prompt_messages: usize,
    template: Option<&ChatTemplate>,
) -> Result<Example, Problem> {
    let mask = flags::mask(fields, "loss_mask", messages.len(), "messages")?;
    let mut untrained = Vec::new();
    for (i, message) in messages.iter().enumerate() {
        let masked = mask.as_ref().map(|mask| mask[i]);
        let said = [message.trained, masked];
        let role = message.value["role"].as_str().unwrap_or_default();
        if said.contains(&Some(false)) {
            untrained.push(i);
        } else if said.contains(&Some(true)) && role != "assistant" {
            return Err((
                format!("message {i} is marked to be trained, and is of the role `{role}`"),
                Some(
                    "answers of the assistant are trained; data.supervise=all trains on every token"
                        .to_string(),
                ),
            ));
        }
    }
    let mut chat = Chat {
        messages: messages.into_iter().map(|message| message.value).collect(),
        prompt_messages,
        untrained,
        tools: messages::tools(fields)?,
        extra: messages::extra(fields, template)?,
    };
    let system = optional(fields, "system")?;
    if !system.trim().is_empty() {
        chat.add_system(system)?;
    }
    Ok(Example::Chat(chat))
}

impl Chat {
    /// Puts the system text of the row first.
    fn add_system(&mut self, system: &str) -> Result<(), Problem> {
        match self.messages.first() {
            Some(first) if first["role"] == "system" && first["content"] == system => return Ok(()),
            Some(first) if first["role"] == "system" => {
                return Err((
                    "`system` of the row and its first message are two different system texts".to_string(),
                    Some("keep one of the two".to_string()),
                ));
            }
            _ => {}
        }
        self.insert_system(system);
        Ok(())
    }

    /// Puts a system message first.
    pub(crate) fn insert_system(&mut self, system: &str) {
        self.messages.insert(0, json!({"role": "system", "content": system}));
        self.prompt_messages += usize::from(self.prompt_messages > 0);
        self.untrained.iter_mut().for_each(|i| *i += 1);
    }
}
