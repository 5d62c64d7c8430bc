//! Rows that are chats.

use std::borrow::Cow;

use serde_json::Value;

use super::example::{Chat, Example};
use super::fields::{Fields, Problem, field, optional, problem};
use super::messages::{self, Message};
use super::{flags, text};
use crate::data::chat_template::ChatTemplate;

/// `messages` or `conversations`.
pub(super) fn chat(fields: &Fields, template: Option<&ChatTemplate>) -> Result<Example, Problem> {
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
pub(super) fn completion_chat(fields: &Fields, template: Option<&ChatTemplate>) -> Result<Example, Problem> {
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
        add_system(&mut chat, system)?;
    }
    Ok(Example::Chat(chat))
}

/// Puts the system text of the row first.
fn add_system(chat: &mut Chat, system: &str) -> Result<(), Problem> {
    match chat.messages.first() {
        Some(first) if first["role"] == "system" && first["content"] == system => return Ok(()),
        Some(first) if first["role"] == "system" => {
            return Err((
                "`system` of the row and its first message are two different system texts".to_string(),
                Some("keep one of the two".to_string()),
            ));
        }
        _ => {}
    }
    chat.insert_system(system);
    Ok(())
}
