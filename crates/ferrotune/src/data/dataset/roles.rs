//! The names of roles: the usual ones, those of other data sets, and those that a template itself knows.

use super::fields::Problem;
use crate::data::chat_template::ChatTemplate;

/// Names that other data sets use for the roles of a chat, in small letters.
pub(crate) const ROLE_ALIASES: &[(&str, &str)] = &[
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("model", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("chatbot", "assistant"),
    ("ai", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("function_call", CALL),
    ("tool_call", CALL),
    ("function", "tool"),
    ("observation", "tool"),
    ("function_response", "tool"),
    ("function_result", "tool"),
    ("tool_response", "tool"),
    ("tool_result", "tool"),
    ("ipython", "tool"),
];

/// Not a role: a message of the assistant whose text is a call of a tool.
pub(super) const CALL: &str = "assistant's call of a tool";

const KNOWN: [&str; 4] = ["system", "user", "assistant", "tool"];

/// The role that a name stands for.
pub(super) fn role(name: &str, template: Option<&ChatTemplate>) -> Result<String, Problem> {
    let given = name.trim();
    let small = given.to_lowercase();
    let names = |role: &str| template.is_some_and(|template| template.names(role));
    if KNOWN.contains(&small.as_str()) {
        return Ok(small);
    }
    if small == "developer" {
        return Ok(if names("developer") { small } else { "system".to_string() });
    }
    if let Some((_, known)) = ROLE_ALIASES.iter().find(|(alias, _)| *alias == small) {
        // A few templates know a tool's answer by such a name only.
        let own = *known == "tool" && names(&small) && !names("tool");
        return Ok(if own { small } else { (*known).to_string() });
    }
    match [given, &small].into_iter().find(|role| names(role)) {
        Some(role) => Ok(role.to_string()),
        None => {
            let aliases: Vec<&str> = ROLE_ALIASES.iter().map(|(alias, _)| *alias).collect();
            Err((
                format!("`{name}` is not a role"),
                Some(format!(
                    "known are {}, developer, and of other data sets {}, in any case; a role that the chat template \
                     names is taken too",
                    KNOWN.join(", "),
                    aliases.join(", ")
                )),
            ))
        }
    }
}
