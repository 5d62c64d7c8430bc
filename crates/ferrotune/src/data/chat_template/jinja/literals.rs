//! Numbers and strings as a template writes them.

use super::lexer::Token;

/// A number at the start of the text, with its length.
pub(super) fn number(text: &str, after_dot: bool) -> Option<(Token, usize)> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if !after_dot && let Some(length) = float_length(text) {
        let digits = text[..length].replace('_', "");
        return digits.parse().ok().map(|number| (Token::Float(number), length));
    }
    let lower = text.get(..2).unwrap_or_default().to_ascii_lowercase();
    let (radix, start) = match lower.as_str() {
        "0b" => (2, 2),
        "0o" => (8, 2),
        "0x" => (16, 2),
        _ => (10, 0),
    };
    if radix != 10 {
        // An underscore may stand before every digit.
        let length = start + grouped(&text[start..], |c| c.is_digit(radix), true);
        if length > start {
            let digits = text[start..length].replace('_', "");
            return i128::from_str_radix(&digits, radix).ok().map(|number| (Token::Int(number), length));
        }
    }
    let zero = text.starts_with('0');
    let length = grouped(text, |c| if zero { c == '0' } else { c.is_ascii_digit() }, false);
    text[..length].replace('_', "").parse().ok().map(|number| (Token::Int(number), length))
}

/// The length of digits with single underscores between them.
fn grouped(text: &str, is_digit: impl Fn(char) -> bool, leading: bool) -> usize {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(|&b| is_digit(char::from(b)));
    let mut at = 0;
    loop {
        if digit(at) {
            at += 1;
        } else if bytes.get(at) == Some(&b'_') && digit(at + 1) && (at > 0 || leading) {
            at += 2;
        } else {
            return at;
        }
    }
}

/// The length of a number with a fraction or an exponent.
fn float_length(text: &str) -> Option<usize> {
    let digits =
        |from: usize| from + grouped(text.get(from..).unwrap_or_default(), |c| c.is_ascii_digit(), false);
    let bytes = text.as_bytes();
    let whole = digits(0);
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') && digits(end + 1) > end + 1 {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let from = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if digits(from) > from {
            return Some(digits(from));
        }
    }
    (end > whole).then_some(end)
}

/// A string in quotes at the start of the text, with its length in the template.
pub(super) fn string(text: &str) -> Option<(String, usize)> {
    let quote = text.chars().next()?;
    let mut out = String::new();
    let mut at = 1;
    loop {
        let rest = &text[at..];
        let c = rest.chars().next()?;
        at += c.len_utf8();
        if c == quote {
            return Some((out, at));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        at += escape(&rest[1..], &mut out)?;
    }
}

/// Writes what stands behind a backslash and returns its length.
fn escape(text: &str, out: &mut String) -> Option<usize> {
    let c = text.chars().next()?;
    let plain = match c {
        '\n' => return Some(1),
        '\\' | '\'' | '"' => Some(c),
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        _ => None,
    };
    if let Some(plain) = plain {
        out.push(plain);
        return Some(1);
    }
    let length = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        '0'..='7' => {
            let digits = text.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
            out.push(char::from_u32(u32::from_str_radix(&text[..digits], 8).ok()?)?);
            return Some(digits);
        }
        // Names of characters need a table of them all.
        'N' => return None,
        _ => {
            out.push('\\');
            out.push(c);
            return Some(c.len_utf8());
        }
    };
    let digits = text.get(1..=length).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    let code = u32::from_str_radix(digits, 16).ok()?;
    out.push(char::from_u32(code)?);
    Some(1 + length)
}
