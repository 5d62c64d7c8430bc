//! A checkpoint's chat template: messages in, the exact text that the model was trained to see out.
//!
//! The language is in `jinja`; this module handles the messages before and after rendering, as `transformers` does.

mod clock;
mod content;
mod conversation;
mod jinja;

pub use clock::Clock;
pub use content::ContentForms;
pub use conversation::Conversation;
pub(crate) use jinja::dumped;

use crate::error::{Error, Result};
use jinja::{Failure, Template};
use serde_json::{Map, Value as Json};
use std::ops::Range;
use std::sync::Arc;

/// A parsed chat template with the special tokens that it may print.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    template: Template,
    source: String,
    special_tokens: Map<String, Json>,
    /// Variables of a whole run; those of a row count more.
    variables: Map<String, Json>,
    clock: Clock,
    /// The template for chats with tools, where a model has one.
    tool_use: Option<Arc<ChatTemplate>>,
}

/// What to render beside the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the header of an assistant turn, ready for the model to answer.
    pub add_generation_prompt: bool,
    /// End inside the last message, so that the model goes on with it.
    pub continue_final_message: bool,
    /// Further variables of the template (`enable_thinking`, `date_string`, ...).
    pub kwargs: Map<String, Json>,
}

impl RenderOptions {
    /// Options with only the generation prompt chosen.
    pub fn prompt(add_generation_prompt: bool) -> Self {
        RenderOptions { add_generation_prompt, ..RenderOptions::default() }
    }
}

/// A rendered chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Byte ranges of `text` inside `{% generation %}` blocks; empty if the template has none.
    pub assistant_spans: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Parses a template. `special_tokens` are variables such as `bos_token`.
    pub fn parse(source: &str, special_tokens: Map<String, Json>) -> Result<Self> {
        let template = Template::parse(source).map_err(|(line, problem)| Error::Template {
            problem: format!("not valid Jinja: line {line}: {problem}"),
            hint: None,
        })?;
        Ok(ChatTemplate {
            template,
            source: source.to_string(),
            special_tokens,
            variables: Map::new(),
            clock: Clock::now(),
            tool_use: None,
        })
    }

    /// The same template with its clock standing still at a time.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// What decides how it renders a chat, as text. Of its clock that is what it prints: most templates ask for the day.
    pub(crate) fn deciding(&self) -> String {
        let dated = self.template.words.contains("strftime_now");
        let patterns = self.template.literals.iter().filter(|text| dated && text.contains('%'));
        let times: Vec<String> = patterns.map(|pattern| self.clock.format(pattern)).collect();
        let time = match dated && times.is_empty() {
            true => self.clock.unix_seconds.to_string(),
            false => times.join("\n"),
        };
        let tool_use = self.tool_use().map(ChatTemplate::deciding);
        format!("{:?} {:?} {:?} {time:?} {tool_use:?}", self.source, self.special_tokens, self.variables)
    }

    /// The same template with another one for chats that have tools, as some models bring it.
    #[must_use]
    pub(crate) fn with_tool_use(mut self, template: ChatTemplate) -> Self {
        self.tool_use = Some(Arc::new(template));
        self
    }

    /// The same template with variables for every chat, such as `enable_thinking`; those of a row count more.
    ///
    /// # Errors
    /// A variable that the template does not know.
    pub fn with_variables(mut self, variables: &Map<String, Json>) -> Result<Self> {
        if let Some(name) = variables.keys().find(|name| !self.uses(name)) {
            let problem = format!("`{name}` would be without effect: the chat template does not know it");
            return Err(Error::config("template_variables", problem)
                .under("data")
                .with_hint("its variables are in the model's chat_template.jinja or tokenizer_config.json"));
        }
        let set = |template: &mut ChatTemplate| {
            template.variables.extend(variables.iter().map(|(name, value)| (name.clone(), value.clone())));
        };
        set(&mut self);
        self.tool_use = self.tool_use.map(|tool_use| {
            let mut other = ChatTemplate::clone(&tool_use);
            set(&mut other);
            Arc::new(other)
        });
        Ok(self)
    }

    /// The template for chats with tools, where a model has one.
    pub fn tool_use(&self) -> Option<&ChatTemplate> {
        self.tool_use.as_deref()
    }

    /// Whether a text stands in quotes in a tag of the template, such as the name of a role that it knows.
    pub fn names(&self, text: &str) -> bool {
        self.template.literals.contains(text) || self.tool_use().is_some_and(|other| other.names(text))
    }

    /// Whether a variable or field of this name occurs in a tag of the template.
    pub fn uses(&self, name: &str) -> bool {
        self.template.words.contains(name)
            || self.names(name)
            || self.tool_use().is_some_and(|other| other.uses(name))
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself marks what the assistant wrote.
    pub fn has_generation(&self) -> bool {
        self.template.has_generation()
    }

    /// Renders a chat. `messages` is a list of objects with `role` and usually `content`.
    pub fn render(
        &self,
        messages: &[Json],
        tools: Option<&[Json]>,
        options: &RenderOptions,
    ) -> Result<Rendered> {
        self.conversation(messages, tools, &options.kwargs)?.render(messages.len(), options)
    }
}

/// The names of a message's reasoning; the first is the one that templates read.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as templates expect it: no null values, and reasoning under its usual names.
fn normalized(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    let reasoning = REASONING.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()));
    let mut out = Map::new();
    if let Some(reasoning) = reasoning {
        // Some templates read this one; it stands before the others.
        out.insert("thinking".to_string(), reasoning.clone());
    }
    out.extend(given.map(|(key, value)| (key.clone(), value.clone())));
    if let Some(reasoning) = reasoning {
        out.insert(REASONING[0].to_string(), reasoning.clone());
    }
    Json::Object(out)
}

fn refused(problem: &str) -> Error {
    Error::Template { problem: problem.to_string(), hint: None }
}

fn render_error(failure: Failure) -> Error {
    match failure {
        Failure::Raised(problem) => Error::Template {
            problem,
            hint: Some("this is the template's own message about the chat it was given".to_string()),
        },
        Failure::Error { line: Some(line), problem } => refused(&format!("line {line}: {problem}")),
        Failure::Error { line: None, problem } => refused(&problem),
    }
}
