//! Rows that are source files.

use super::example::{CodeFile, Example};
use super::fields::{Fields, Problem, problem, text};

pub(super) fn code(fields: &Fields) -> Result<Example, Problem> {
    let file = CodeFile {
        repository: text(fields, "repository")?.to_string(),
        path: text(fields, "path")?.to_string(),
        text: text(fields, "content")?.to_string(),
    };
    if file.text.is_empty() { problem("`content` is empty") } else { Ok(Example::Code(file)) }
}
