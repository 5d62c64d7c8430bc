//! Splits a template into text and the tokens of its tags, with the whitespace control of Jinja.
//!
//! As `transformers` sets it, a line break behind a block or a comment is dropped, and so are the spaces before one
//! that begins its line.

use super::literals::{number, string};
use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Text(Arc<str>),
    BlockBegin,
    BlockEnd,
    VariableBegin,
    VariableEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    Operator(&'static str),
}

/// A token with its line.
pub(super) type Located = (Token, u32);

/// Longer operators stand before those that they begin with.
const OPERATORS: [&str; 25] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",",
];

/// What Python counts as a space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Splits a whole template. An error has its line and what is wrong.
pub(super) fn tokens(source: &str) -> Result<Vec<Located>, (u32, String)> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, begins_line: true, out: Vec::new() };
    lexer.run().map_err(|problem| (lexer.line, problem))?;
    Ok(lexer.out)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Whether the last piece ended with a line break.
    begins_line: bool,
    out: Vec<Located>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    /// Goes on behind `length` bytes.
    fn advance(&mut self, length: usize) {
        let piece = &self.source[self.at..self.at + length];
        self.line += u32::try_from(piece.matches('\n').count()).unwrap_or(0);
        if length > 0 {
            self.begins_line = piece.ends_with('\n');
        }
        self.at += length;
    }

    fn push(&mut self, token: Token) {
        self.out.push((token, self.line));
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(found) = next_tag(self.rest()) {
            let text = &self.rest()[..found];
            let tag = &self.rest()[found..];
            let kind = tag.as_bytes()[1];
            let raw = raw_begin(tag);
            let sign = tag[2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let kept = self.kept(text, sign, kind == b'{');
            if !kept.is_empty() {
                self.push(Token::Text(kept.into()));
            }
            self.advance(found + raw.unwrap_or(2 + usize::from(sign.is_some())));
            match (raw, kind) {
                (Some(_), _) => self.raw()?,
                (None, b'#') => self.comment()?,
                (None, b'%') => self.tag(Token::BlockBegin, Token::BlockEnd)?,
                (None, _) => self.tag(Token::VariableBegin, Token::VariableEnd)?,
            }
        }
        let rest = self.rest();
        if !rest.is_empty() {
            self.push(Token::Text(rest.into()));
        }
        Ok(())
    }

    /// The text before a tag without the spaces that the tag takes away.
    fn kept(&self, text: &'a str, sign: Option<char>, is_variable: bool) -> &'a str {
        match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if !is_variable => {
                let line = text.rfind('\n').map_or(0, |at| at + 1);
                let first = line > 0 || self.begins_line;
                if first && text[line..].chars().all(is_space) { &text[..line] } else { text }
            }
            _ => text,
        }
    }

    /// Goes on behind the end of a tag that `delimiter` closes; what it takes away goes with it.
    fn close(&mut self, length: usize, strips: bool, trims: bool) {
        self.advance(length);
        let rest = self.rest();
        if strips {
            self.advance(rest.len() - rest.trim_start_matches(is_space).len());
        } else if trims && rest.starts_with('\n') {
            self.advance(1);
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        // Jinja misses the end of a comment only where something follows its beginning.
        if self.rest().is_empty() {
            return Ok(());
        }
        let Some(end) = self.rest().find("#}") else {
            return Err("missing end of comment tag".to_string());
        };
        let sign = self.rest()[..end].chars().next_back();
        let plus = sign == Some('+');
        self.close(end + 2, sign == Some('-'), !plus);
        Ok(())
    }

    fn raw(&mut self) -> Result<(), String> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find("{%") {
            let start = from + found;
            if let Some((sign, length, last)) = raw_end(&rest[start..]) {
                let kept = self.kept(&rest[..start], sign, false);
                if !kept.is_empty() {
                    self.push(Token::Text(kept.into()));
                }
                self.close(start + length, last == Some('-'), last.is_none());
                return Ok(());
            }
            from = start + 2;
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err("missing end of raw directive".to_string()),
        }
    }

    fn tag(&mut self, begin: Token, end: Token) -> Result<(), String> {
        let is_block = begin == Token::BlockBegin;
        let delimiter = if is_block { "%}" } else { "}}" };
        self.push(begin);
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(()) };
            if open.is_empty() {
                let sign = rest.chars().next().filter(|&c| c == '-' || (c == '+' && is_block));
                let signed = sign.filter(|_| rest[1..].starts_with(delimiter));
                if signed.is_some() || rest.starts_with(delimiter) {
                    self.push(end);
                    let length = delimiter.len() + usize::from(signed.is_some());
                    self.close(length, signed == Some('-'), is_block && signed.is_none());
                    return Ok(());
                }
            }
            if is_space(first) {
                self.advance(rest.len() - rest.trim_start_matches(is_space).len());
                continue;
            }
            let (token, length) = self.token(rest)?;
            if let Token::Operator(text) = token {
                match text {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    ")" | "]" | "}" => match open.pop() {
                        Some(expected) if expected == text => {}
                        Some(expected) => return Err(format!("unexpected '{text}', expected '{expected}'")),
                        None => return Err(format!("unexpected '{text}'")),
                    },
                    _ => {}
                }
            }
            self.push(token);
            self.advance(length);
        }
    }

    fn token(&self, rest: &str) -> Result<(Token, usize), String> {
        let after_dot = self.source[..self.at].ends_with('.');
        if let Some(found) = number(rest, after_dot) {
            return Ok(found);
        }
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let word = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        if !word.is_empty() {
            return match word.starts_with(|c: char| c.is_numeric()) {
                true => Err(format!("invalid character in identifier {word:?}")),
                false => Ok((Token::Name(word.into()), word.len())),
            };
        }
        if rest.starts_with(['\'', '"']) {
            let (text, length) =
                string(rest).ok_or_else(|| "a string does not end or escape well".to_string())?;
            return Ok((Token::Str(text.into()), length));
        }
        let operator = OPERATORS.iter().find(|operator| rest.starts_with(**operator));
        match operator {
            Some(operator) => Ok((Token::Operator(operator), operator.len())),
            None if rest.starts_with(';') => Ok((Token::Operator(";"), 1)),
            None => Err(format!("unexpected character {:?}", rest.chars().next().unwrap_or_default())),
        }
    }
}

/// Where the next tag starts.
fn next_tag(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    bytes.windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'))
}

/// The length of `{% raw %}` and what it takes away behind it.
fn raw_begin(tag: &str) -> Option<usize> {
    let (_, after) = keyword(tag, "raw")?;
    let rest = match after.strip_prefix('-') {
        Some(rest) => rest.strip_prefix("%}")?.trim_start_matches(is_space),
        None => after.strip_prefix("%}")?,
    };
    Some(tag.len() - rest.len())
}

/// The sign before `endraw`, the length of the tag, and the sign at its end.
fn raw_end(tag: &str) -> Option<(Option<char>, usize, Option<char>)> {
    let (sign, after) = keyword(tag, "endraw")?;
    let last = after.chars().next().filter(|c| matches!(c, '-' | '+'));
    let rest = after[usize::from(last.is_some())..].strip_prefix("%}")?;
    Some((sign, tag.len() - rest.len(), last))
}

fn keyword<'a>(tag: &'a str, word: &str) -> Option<(Option<char>, &'a str)> {
    let rest = tag.strip_prefix("{%")?;
    let sign = rest.chars().next().filter(|c| matches!(c, '-' | '+'));
    let rest = rest[usize::from(sign.is_some())..].trim_start_matches(is_space).strip_prefix(word)?;
    Some((sign, rest.trim_start_matches(is_space)))
}
