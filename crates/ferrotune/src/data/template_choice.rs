//! Which chat template a run asks for: one of the model's named ones, a file, or the text itself.

use std::path::Path;

use super::files::template_file;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// The name of the template for ordinary chats.
const DEFAULT: &str = "default";

/// The source of the template that `choice` stands for.
///
/// # Errors
/// It is neither a template nor the name of one, and no such file is there.
pub(crate) fn source(choice: &str, tokenizer: &Tokenizer) -> Result<String> {
    if choice.contains("{%") || choice.contains("{{") {
        return Ok(choice.to_string());
    }
    let settings = tokenizer.settings();
    let own = settings.chat_template.iter().map(|source| (DEFAULT, source));
    let tools = settings.tool_template.iter().map(|source| ("tool_use", source));
    let others = settings.other_templates.iter().map(|(name, source)| (name.as_str(), source));
    let named: Vec<(&str, &String)> = own.chain(tools).chain(others).collect();
    if let Some((_, source)) = named.iter().find(|(name, _)| *name == choice) {
        return Ok(source.to_string());
    }
    if let Some(source) = template_file(Path::new(choice))? {
        return Ok(source);
    }
    let names: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    let names = match names.is_empty() {
        true => "the model has no template".to_string(),
        false => format!("the model's templates: {}", names.join(", ")),
    };
    Err(Error::config("template", format!("`{choice}` is neither a template of the model nor a file"))
        .under("data")
        .with_hint(format!("{names}; or give a .jinja file, or the template itself")))
}
