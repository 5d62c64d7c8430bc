//! The tokens of a template's tags.

pub(super) fn find_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(1))
        .find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'{' | b'%' | b'#'))
}

/// End of `{% endraw %}`, or of the text.
pub(super) fn end_of_raw(text: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(found) = text[at..].find("{%") {
        let start = at + found;
        let inner = text[start + 2..].trim_start_matches(['-', '+']).trim_start();
        if inner.starts_with("endraw") {
            return text[start..].find("%}").map_or(text.len(), |end| start + end + 2);
        }
        at = start + 2;
    }
    text.len()
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    /// Whitespace, and the delimiters of the tag.
    Space,
    Word,
    /// A string or a number.
    Literal,
    Open,
    Close,
    Operator,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

/// The significant tokens between the delimiters are few; this is the first, if it is a word.
pub(super) fn first_word<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    tokens.iter().find(|t| t.kind != Kind::Space).filter(|t| t.kind == Kind::Word).map(|t| t.text)
}

/// Splits the tag at the start of `text` into tokens; the delimiters come back as spaces. `None` if it does not end.
pub(super) fn lex_tag(text: &str, is_block: bool) -> Option<(Vec<Token<'_>>, usize)> {
    let close = if is_block { "%}" } else { "}}" };
    let mut tokens = Vec::new();
    let mut at = 2;
    if text[at..].starts_with(['-', '+']) {
        at += 1;
    }
    tokens.push(Token { kind: Kind::Space, text: &text[..at] });
    let mut depth = 0_usize;
    loop {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        if depth == 0 {
            let marked = rest.strip_prefix(['-', '+']).is_some_and(|r| r.starts_with(close));
            if marked || rest.starts_with(close) {
                let end = at + close.len() + usize::from(marked);
                tokens.push(Token { kind: Kind::Space, text: &text[at..end] });
                return Some((tokens, end));
            }
        }
        let (kind, length) = match first {
            c if c.is_whitespace() => (Kind::Space, run(rest, char::is_whitespace)),
            '\'' | '"' => (Kind::Literal, string_length(rest, first)?),
            c if c.is_ascii_digit() => (Kind::Literal, number_length(rest)),
            c if c.is_alphanumeric() || c == '_' => {
                (Kind::Word, run(rest, |c| c.is_alphanumeric() || c == '_'))
            }
            '(' | '[' | '{' => {
                depth += 1;
                (Kind::Open, 1)
            }
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                (Kind::Close, 1)
            }
            c => {
                let two = rest.get(..2).unwrap_or_default();
                let is_two = matches!(two, "**" | "//" | "==" | "!=" | "<=" | ">=");
                (Kind::Operator, if is_two { 2 } else { c.len_utf8() })
            }
        };
        tokens.push(Token { kind, text: &rest[..length] });
        at += length;
    }
}

fn run(text: &str, accept: impl Fn(char) -> bool) -> usize {
    text.find(|c| !accept(c)).unwrap_or(text.len())
}

fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Digits, with a fraction and an exponent; `1.real` leaves the dot alone.
fn number_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let digits = |from: usize| from + run(&text[from..], |c| c.is_ascii_alphanumeric() || c == '_');
    let mut end = digits(0);
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
    }
    let has_exponent = matches!(bytes[end - 1], b'e' | b'E') && !text.starts_with("0x");
    if has_exponent && matches!(bytes.get(end), Some(b'+' | b'-')) {
        end = digits(end + 1);
    }
    end
}
