//! JSON text that others wrote: read with a byte order mark too, and refused in words about the text.

use std::path::Path;

use serde_json::Value;

use crate::Error;

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotJson {
    /// What was found.
    pub(crate) problem: String,
    /// Its line, from 1.
    pub(crate) line: usize,
    /// Its column in bytes, from 1.
    pub(crate) column: usize,
}

impl std::fmt::Display for NotJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, at line {} column {}", self.problem, self.line, self.column)
    }
}

/// Parses a file's bytes; a byte order mark before them is no part of the text.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Value, NotJson> {
    let bytes = without_mark(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => from_text(text),
        Err(e) => {
            let before = &bytes[..e.valid_up_to()];
            let start = before.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            let problem = crate::file_kind::detect(bytes)
                .map_or_else(|| "the text is not UTF-8".to_string(), |kind| format!("this is {kind}"));
            Err(NotJson { problem, line, column: 1 + before.len() - start })
        }
    }
}

/// Parses what was read from a file; the error names it.
pub(crate) fn in_file(path: &Path, bytes: &[u8]) -> crate::Result<Value> {
    from_bytes(bytes).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// Bytes without the mark that some editors put before UTF-8.
pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Parses a text.
pub(crate) fn from_text(text: &str) -> Result<Value, NotJson> {
    serde_json::from_str(text).map_err(|error| explained(text, &error))
}

fn explained(text: &str, error: &serde_json::Error) -> NotJson {
    let (line, column) = (error.line().max(1), error.column().max(1));
    let (word, start) = word_at(text.lines().nth(line - 1).unwrap_or_default(), column);
    let at = |problem: String, column| NotJson { problem, line, column };
    if error.is_eof() {
        return at("the text ends in the middle of a value".to_string(), column);
    }
    match word {
        "NaN" | "Infinity" | "-Infinity" | "nan" | "inf" | "-inf" => {
            return at(format!("`{word}` is not a number of JSON"), start);
        }
        "None" | "True" | "False" | "undefined" => {
            return at(format!("`{word}` is not JSON, which has null, true and false"), start);
        }
        _ => {}
    }
    if text.lines().nth(line - 1).and_then(|l| l.as_bytes().get(column - 1)) == Some(&b'\'') {
        return at("text stands in single quotes, JSON has double ones".to_string(), column);
    }
    let own = error.to_string();
    let own = own.split(" at line ").next().unwrap_or(&own);
    let said = WORDS.iter().find(|(theirs, _)| own.starts_with(theirs)).map_or(own, |(_, ours)| ours);
    at(said.to_string(), column)
}

/// The parser's reasons in the words of messages.
const WORDS: &[(&str, &str)] = &[
    ("expected value", "there is no value where one should be"),
    ("expected ident", "a word that is none of null, true and false"),
    ("expected `:`", "no colon behind a key"),
    ("expected `,` or `}`", "no comma or closing brace behind a value"),
    ("expected `,` or `]`", "no comma or closing bracket behind a value"),
    ("key must be a string", "a key that is not text in double quotes"),
    ("trailing comma", "a comma with nothing behind it"),
    ("trailing characters", "something follows behind the end of the value"),
    ("control character", "a line break or another control character inside a text"),
    ("invalid escape", "an unknown escape behind a backslash"),
    ("lone leading surrogate", "half of a surrogate pair"),
    ("unexpected end of hex escape", "half of a surrogate pair"),
    ("invalid number", "a number that is not written as in JSON"),
    ("number out of range", "a number too large for 64 bits"),
    ("recursion limit exceeded", "lists and objects nested deeper than 127"),
];

/// The word of letters and signs around a column, and the column where it starts.
fn word_at(line: &str, column: usize) -> (&str, usize) {
    let bytes = line.as_bytes();
    let is_word = |b: &u8| b.is_ascii_alphabetic() || *b == b'-';
    let at = (column - 1).min(bytes.len());
    let start = bytes[..at].iter().rposition(|b| !is_word(b)).map_or(0, |i| i + 1);
    let end = at + bytes[at..].iter().take_while(|b| is_word(b)).count();
    (line.get(start..end).unwrap_or_default(), start + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_json_is_said_in_words_about_the_text() {
        for (text, problem, line, column) in [
            ("{\"a\": NaN}", "`NaN` is not a number of JSON", 1, 7),
            ("{\"a\":\n -Infinity}", "`-Infinity` is not a number of JSON", 2, 2),
            ("{\"a\": nan}", "`nan` is not a number of JSON", 1, 7),
            ("[None]", "`None` is not JSON", 1, 2),
            ("{'a': 1}", "single quotes", 1, 2),
            ("{\"a\": 1,}", "a comma with nothing behind it", 1, 9),
            ("{\"a\": ", "ends in the middle", 1, 6),
            ("{\"a\": 1} x", "something follows", 1, 10),
            ("{\"a\" 1}", "no colon", 1, 6),
            ("", "ends in the middle", 1, 1),
        ] {
            let found = from_text(text).expect_err(text);
            assert!(found.problem.contains(problem), "{text}: {found}");
            assert_eq!((found.line, found.column), (line, column), "{text}: {found}");
        }
        assert_eq!(from_bytes(b"\xef\xbb\xbf[1]").unwrap(), serde_json::json!([1]));
        assert!(from_bytes(b"\xff\xfe[\0").unwrap_err().problem.contains("UTF-16"));
    }
}
