//! Why an example cannot become a row.

use crate::Error;

/// What is wrong with an example, and a hint.
#[derive(Debug, Default)]
pub struct Problem {
    /// What was found and what was expected.
    pub text: String,
    /// What the user could do.
    pub hint: Option<String>,
}

impl Problem {
    pub(super) fn new(text: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem { text: text.into(), hint: Some(hint.into()) }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem { text: error.to_string(), hint: error.hint() }
    }
}
