//! A chat made ready once, to be rendered up to any of its messages.

use super::python::{self, Marks};
use super::{ChatTemplate, MARKS, NAME, RenderOptions, Rendered, continue_at, marks, normalized, refused};
use super::{render_error, split_marks};
use crate::error::Result;
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json};

/// Messages, tools and variables as a template takes them.
#[derive(Debug)]
pub struct Conversation<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Json>,
    values: Vec<Value>,
    context: Vec<(String, Value)>,
    /// The marks that occur nowhere in the input, if the template needs any.
    marks: Option<(u32, Marks)>,
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
        let marks = match self.has_generation {
            true => Some(self.free_marks(&messages, tools.unwrap_or_default(), kwargs)?),
            false => None,
        };
        let mut context: Vec<(String, Value)> = Vec::new();
        let mut set = |name: &str, value: Value| match context.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => context.push((name.to_string(), value)),
        };
        for (name, value) in &self.special_tokens {
            set(name, python::from_json(value));
        }
        set("tools", Value::from(()));
        set("documents", Value::from(()));
        for (name, value) in self.variables.iter().chain(kwargs) {
            set(name, python::from_json(value));
        }
        if let Some(tools) = tools {
            set("tools", Value::from(tools.iter().map(python::from_json).collect::<Vec<_>>()));
        }
        let values = messages.iter().map(python::from_json).collect();
        Ok(Conversation { template: self, messages, values, context, marks })
    }

    fn free_marks(
        &self,
        messages: &[Json],
        tools: &[Json],
        kwargs: &Map<String, Json>,
    ) -> Result<(u32, Marks)> {
        let others = || self.special_tokens.iter().chain(&self.variables).chain(kwargs);
        let is_free = |m: &Marks| {
            let in_text = |text: &str| text.contains([m.start, m.end]);
            !messages.iter().chain(tools).any(|json| holds(json, *m))
                && !others().any(|(name, value)| in_text(name) || holds(value, *m))
                && !in_text(&self.source)
        };
        (0..MARKS).map(|i| (i, marks(i))).find(|(_, m)| is_free(m)).ok_or_else(|| {
            refused("the chat holds every noncharacter from U+FDD0 to U+FDEF, so its generated parts cannot be marked")
        })
    }
}

impl Conversation<'_> {
    /// Renders the first `upto` messages; the options' variables are those that the conversation was made with.
    pub fn render(&self, upto: usize, options: &RenderOptions) -> Result<Rendered> {
        let values = self.values.get(..upto).unwrap_or(&self.values);
        if values.is_empty() {
            return Err(refused("there are no messages to render"));
        }
        if options.continue_final_message && options.add_generation_prompt {
            return Err(refused("a chat cannot both continue its last message and start a new one"));
        }
        let own = [
            ("add_generation_prompt".to_string(), Value::from(options.add_generation_prompt)),
            ("messages".to_string(), Value::from(values.to_vec())),
        ];
        let given = self.context.iter().filter(|(name, _)| own.iter().all(|(key, _)| key != name));
        let mut rendered = self.run(Value::from_pairs(given.cloned().chain(own.iter().cloned())))?;
        if options.continue_final_message {
            let last = self.messages.get(values.len() - 1).unwrap_or(&Json::Null);
            let end = continue_at(&rendered.text, last)?;
            rendered.text.truncate(end);
            rendered.assistant_spans.retain(|span| span.start < end);
            rendered.assistant_spans.iter_mut().for_each(|span| span.end = span.end.min(end));
        }
        Ok(rendered)
    }

    fn run(&self, context: Value) -> Result<Rendered> {
        let render = |env: &Environment<'_>| {
            let text = env.get_template(NAME).and_then(|template| template.render(context));
            text.map_err(|e| render_error(&e))
        };
        let env = &self.template.env;
        match self.marks {
            None => Ok(Rendered { text: render(env)?, assistant_spans: Vec::new() }),
            Some((0, marks)) => Ok(split_marks(&render(env)?, marks)),
            Some((_, marks)) => {
                let mut env = env.clone();
                python::install_marks(&mut env, marks);
                Ok(split_marks(&render(&env)?, marks))
            }
        }
    }
}

/// Whether a mark occurs anywhere in the input.
fn holds(json: &Json, marks: Marks) -> bool {
    let in_text = |text: &str| text.contains([marks.start, marks.end]);
    match json {
        Json::String(text) => in_text(text),
        Json::Array(items) => items.iter().any(|item| holds(item, marks)),
        Json::Object(fields) => fields.iter().any(|(key, value)| in_text(key) || holds(value, marks)),
        _ => false,
    }
}
