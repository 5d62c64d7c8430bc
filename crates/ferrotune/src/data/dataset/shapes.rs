//! The shapes of a row and what each becomes.

use super::example::Example;
use super::fields::{Fields, KNOWN, Problem, found};
use super::{chats, code, flags, plain};
use crate::data::chat_template::ChatTemplate;
use crate::run_config::DataFormat;

/// The shape of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Messages,
    Completion,
    Instruction,
    Tokens,
    Text,
    Code,
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
            DataFormat::Code => Some(Shape::Code),
        }
    }

    /// Its name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Shape::Messages => "chats",
            Shape::Completion => "prompts and completions",
            Shape::Instruction => "instructions",
            Shape::Tokens => "token ids",
            Shape::Text => "texts",
            Shape::Code => "source files",
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
            Shape::Completion if is_chat => chats::completion_chat(fields, template),
            Shape::Completion => plain::completion(fields),
            Shape::Instruction => plain::instruction(fields, template),
            Shape::Messages => chats::chat(fields, template),
            Shape::Tokens => plain::tokens(fields),
            Shape::Code => code::code(fields),
        }
    }
}
