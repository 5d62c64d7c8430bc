//! A chat made ready once, to be rendered up to any of its messages.

use super::jinja::Variable;
use super::{ChatTemplate, RenderOptions, Rendered, normalized, refused, render_error};
use crate::error::Result;
use serde_json::{Map, Value as Json};

/// Stands behind the content that a model is to go on with, to find where that ends. Its space shows whether the
/// template trims the content.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Messages, tools and variables as a template takes them.
#[derive(Debug)]
pub struct Conversation<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Json>,
    values: Vec<Variable>,
    context: Vec<(String, Variable)>,
}

impl ChatTemplate {
    /// Makes a chat ready. `messages` is a list of objects with `role` and usually `content`; `kwargs` are further
    /// variables.
    pub fn conversation(
        &self,
        messages: &[Json],
        tools: Option<&[Json]>,
        kwargs: &Map<String, Json>,
    ) -> Result<Conversation<'_>> {
        if let (Some(_), Some(other)) = (tools, self.tool_use()) {
            return other.conversation(messages, tools, kwargs);
        }
        let messages: Vec<Json> = messages.iter().map(normalized).collect();
        let mut context: Vec<(String, Variable)> = Vec::new();
        let mut set = |name: &str, value: Variable| match context.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => context.push((name.to_string(), value)),
        };
        set("tools", Variable::from_json(&Json::Null));
        set("documents", Variable::from_json(&Json::Null));
        for (name, value) in self.special_tokens.iter().chain(&self.variables).chain(kwargs) {
            set(name, Variable::from_json(value));
        }
        if let Some(tools) = tools {
            set("tools", Variable::list(tools.iter().map(Variable::from_json)));
        }
        let values = messages.iter().map(Variable::from_json).collect();
        Ok(Conversation { template: self, messages, values, context })
    }
}

impl Conversation<'_> {
    /// Renders the first `upto` messages; the options' variables are those that the conversation was made with.
    pub fn render(&self, upto: usize, options: &RenderOptions) -> Result<Rendered> {
        let values = self.values.get(..upto).unwrap_or(&self.values);
        if values.is_empty() {
            return Err(refused("there are no messages to render"));
        }
        if !options.continue_final_message {
            return self.run(values.to_vec(), options);
        }
        if options.add_generation_prompt {
            return Err(refused("a chat cannot both continue its last message and start a new one"));
        }
        let mut last = self.messages.get(values.len() - 1).cloned().unwrap_or(Json::Null);
        let content =
            tagged(&mut last).ok_or_else(|| refused("the message to continue has no text content"))?;
        let mut values = values.to_vec();
        values.pop();
        values.push(Variable::from_json(&last));
        let mut rendered = self.run(values, options)?;
        let end = continue_at(&rendered.text, &content)?;
        rendered.text.truncate(end);
        rendered.assistant_spans.retain(|span| span.start < end);
        rendered.assistant_spans.iter_mut().for_each(|span| span.end = span.end.min(end));
        Ok(rendered)
    }

    fn run(&self, messages: Vec<Variable>, options: &RenderOptions) -> Result<Rendered> {
        let own = [
            ("add_generation_prompt", Variable::from_json(&options.add_generation_prompt.into())),
            ("messages", Variable::list(messages)),
        ];
        let given = self.context.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let clock = self.template.clock;
        let strftime = |pattern: &str| clock.format(pattern);
        let done = self.template.template.render(given.chain(own), &strftime);
        let (text, assistant_spans) = done.map_err(|failure| render_error(*failure))?;
        Ok(Rendered { text, assistant_spans })
    }
}

/// Puts the tag behind the content of a message and returns the content: its text, or the text of its last part.
fn tagged(message: &mut Json) -> Option<String> {
    let content = match message.get_mut("content")? {
        Json::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text"))?,
        other => other,
    };
    let text = content.as_str()?.to_string();
    *content = Json::String(format!("{text}{TAG}"));
    Some(text)
}

/// Where a text ends that stops inside its last message.
fn continue_at(text: &str, content: &str) -> Result<usize> {
    let at = text.rfind(TAG.trim_end()).filter(|_| text.contains(content.trim())).ok_or_else(|| {
        refused("the message to continue does not appear in the rendered chat, so it cannot be continued")
    })?;
    // A template that trims the tag would have trimmed the space before it.
    Ok(if text[at..].starts_with(TAG) { at } else { text[..at].trim_end().len() })
}
