//! A checkpoint's chat template: messages in, the exact text that the model was trained to see out.
//!
//! Jinja is minijinja's; this module adds what Python's Jinja and other trainers expect around it: Python's text
//! form of values, `{% generation %}` blocks, `strftime_now`, `raise_exception`, and the handling of messages before and
//! after rendering. A template is data from the internet: it runs with fuel and cannot reach anything but its input.

mod clock;
mod content;
mod conversation;
mod json;
mod lexer;
mod names;
mod operators;
mod python;
mod rewrite;

pub use clock::Clock;
pub use content::ContentForms;
pub use conversation::Conversation;
pub(crate) use json::dumped;

use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use python::{Marks, Raised};
use serde_json::{Map, Value as Json};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// Steps that a rendering may take. A chat of a hundred messages takes some thousand.
const FUEL: u64 = 10_000_000;

/// Name of the only template of the environment.
const NAME: &str = "chat_template";

/// A parsed chat template with the special tokens that it may print.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    special_tokens: Map<String, Json>,
    /// Variables of a whole run; those of a row count more.
    variables: Map<String, Json>,
    clock: Clock,
    has_generation: bool,
    words: BTreeSet<String>,
    literals: BTreeSet<String>,
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
        let rewritten = rewrite::rewrite(source);
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| parse_error(&e))?);
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_fuel(Some(FUEL));
        python::install(&mut env);
        env.add_filter("tojson", json::to_json);
        python::install_marks(&mut env, marks(0));
        env.add_template_owned(NAME, rewritten.source).map_err(|e| parse_error(&e))?;
        let template = ChatTemplate {
            env,
            source: source.to_string(),
            special_tokens,
            variables: Map::new(),
            clock: Clock::now(),
            has_generation: rewritten.has_generation,
            words: rewritten.words,
            literals: rewritten.literals,
            tool_use: None,
        };
        template.check_names(&rewritten.filters, &rewritten.tests)?;
        let clock = template.clock;
        Ok(template.with_clock(clock))
    }

    /// The same template with its clock standing still at a time.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.env.add_function("strftime_now", move |pattern: &str| clock.format(pattern));
        self.clock = clock;
        self
    }

    /// What decides how it renders a chat, as text. Of its clock that is what it prints: most templates ask for the day.
    pub(crate) fn deciding(&self) -> String {
        let dated = self.words.contains("strftime_now");
        let patterns = self.literals.iter().filter(|text| dated && text.contains('%'));
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
        self.literals.contains(text) || self.tool_use().is_some_and(|other| other.names(text))
    }

    /// Whether a variable or field of this name occurs in a tag of the template.
    pub fn uses(&self, name: &str) -> bool {
        self.words.contains(name) || self.names(name) || self.tool_use().is_some_and(|other| other.uses(name))
    }

    /// The template as it was given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the template itself marks what the assistant wrote.
    pub fn has_generation(&self) -> bool {
        self.has_generation
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

    /// Jinja refuses unknown filters and tests when it parses; minijinja would only when it reaches them.
    fn check_names(&self, filters: &[String], tests: &[String]) -> Result<()> {
        for (names, kind) in [(filters, "filter"), (tests, "test")] {
            for name in names {
                let known = self.env.render_named_str(
                    "names",
                    &format!("{{{{ name is {kind} }}}}"),
                    minijinja::context! { name },
                );
                if known.is_ok_and(|text| text == "False") {
                    return Err(Error::Template {
                        problem: format!("not valid Jinja: no {kind} named `{name}`"),
                        hint: None,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Number of pairs of code points that Unicode reserves for a program's own use.
const MARKS: u32 = 16;

fn marks(index: u32) -> Marks {
    let reserved = |at| char::from_u32(0xfdd0 + at).unwrap_or('\u{fdd0}');
    Marks { start: reserved(2 * index), end: reserved(2 * index + 1) }
}

/// Takes the marks out of the text and notes where they stood. A block in a block belongs to the outer one.
fn split_marks(marked: &str, marks: Marks) -> Rendered {
    let mut text = String::with_capacity(marked.len());
    let mut assistant_spans = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    let mut rest = marked;
    while let Some(at) = rest.find([marks.start, marks.end]) {
        text.push_str(&rest[..at]);
        let is_start = rest[at..].starts_with(marks.start);
        rest = &rest[at + marks.start.len_utf8()..];
        if is_start {
            if depth == 0 {
                start = text.len();
            }
            depth += 1;
        } else {
            depth = depth.saturating_sub(1);
            if depth == 0 && start < text.len() {
                assistant_spans.push(start..text.len());
            }
        }
    }
    text.push_str(rest);
    Rendered { text, assistant_spans }
}

/// A message as templates expect it: no null values, and reasoning under its usual name too.
fn normalized(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let mut fields: Map<String, Json> =
        fields.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    if !fields.contains_key("reasoning_content")
        && let Some(reasoning) = fields.get("reasoning").or_else(|| fields.get("thinking")).cloned()
    {
        fields.insert("reasoning_content".to_string(), reasoning);
    }
    Json::Object(fields)
}

/// Where a text ends that stops inside its last message.
fn continue_at(text: &str, message: &Json) -> Result<usize> {
    let content = match &message["content"] {
        Json::Array(parts) => parts.iter().rev().find_map(|part| part["text"].as_str()),
        other => other.as_str(),
    };
    let content = content.ok_or_else(|| refused("the message to continue has no text content"))?;
    let start = text.rfind(content.trim()).ok_or_else(|| {
        refused("the message to continue does not appear in the rendered chat, so it cannot be continued")
    })?;
    // A template may keep or trim the space after the content; keep what it kept.
    let untrimmed = content.trim_start();
    let kept = text[start..].starts_with(untrimmed);
    Ok(start + if kept { untrimmed.len() } else { content.trim().len() })
}

fn refused(problem: &str) -> Error {
    Error::Template { problem: problem.to_string(), hint: None }
}

fn parse_error(error: &minijinja::Error) -> Error {
    Error::Template { problem: format!("not valid Jinja: {}", described(error)), hint: None }
}

fn render_error(error: &minijinja::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return Error::Template {
                problem: message.clone(),
                hint: Some("this is the template's own message about the chat it was given".to_string()),
            };
        }
        cause = current.source();
    }
    Error::Template { problem: described(error), hint: None }
}

fn described(error: &minijinja::Error) -> String {
    let text =
        error.detail().map_or_else(|| error.kind().to_string(), |d| format!("{} ({})", d, error.kind()));
    match error.line() {
        Some(line) => format!("line {line}: {text}"),
        None => text,
    }
}
