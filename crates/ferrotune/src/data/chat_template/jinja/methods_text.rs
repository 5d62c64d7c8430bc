//! Methods of `str`.

use super::arguments::{Given, count, int, text};
use super::lexer::is_space;
use super::percent;
use super::repr::is_printable;
use super::runtime::{MAX_TEXT, Result, fail, push};
use super::text_search as search;
use super::value::{Text, Value, char_count};
use regex::Regex;
use std::sync::LazyLock;

/// Decimal digits of every script.
static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Decimal_Number}+$").ok());
/// Digits too that no number is written with: superscripts, and those in circles, brackets and with points.
static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let class = r"(?x) ^ [ \p{Decimal_Number} ² ³ ¹ \x{2070} \x{2074}-\x{2079} \x{2080}-\x{2089} \x{2460}-\x{2468}
        \x{2474}-\x{247c} \x{2488}-\x{2490} \x{24ea} \x{24f5}-\x{24fd} \x{24ff} \x{2776}-\x{277e} \x{2780}-\x{2788}
        \x{278a}-\x{2792} ]+ $";
    Regex::new(class).ok()
});

fn all(text: &str, accept: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(accept)
}

fn matches(class: &LazyLock<Option<Regex>>, text: &str) -> bool {
    class.as_ref().is_some_and(|class| class.is_match(text))
}

pub(super) fn call(receiver: &Text, method: &str, given: Given) -> Result<Value> {
    let this: &str = &receiver.text;
    match method {
        "format" => return percent::format(this, &given.positional, &given.named),
        "split" | "rsplit" => return search::split(this, method, given),
        "splitlines" => {
            let [keep] = given.bind(method, ["keepends"], 0)?;
            let keep = keep.as_ref().is_some_and(Value::truth);
            return Ok(Value::list(lines(this, keep).into_iter().map(Value::str).collect()));
        }
        "expandtabs" => {
            let [size] = given.bind(method, ["tabsize"], 0)?;
            return expand_tabs(this, count(size.as_ref(), 8)?).map(Value::str);
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.plain(method, 0)?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            return strip(
                &Value::Str(receiver.clone()),
                chars.as_ref(),
                method != "rstrip",
                method != "lstrip",
            );
        }
        "center" | "ljust" | "rjust" | "zfill" => return padded(this, method, given).map(Value::str),
        "replace" => {
            let [old, new, limit] = given.plain(method, 2)?;
            let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
            let limit = limit.as_ref().map_or(Ok(-1), int)?;
            return replace(this, text(&old)?, text(&new)?, limit).map(Value::str);
        }
        "join" => {
            let [items] = given.plain(method, 1)?;
            let mut out = String::new();
            for (i, item) in items.unwrap_or(Value::None).items()?.iter().enumerate() {
                push(&mut out, if i > 0 { this } else { "" })?;
                let Some(text) = item.as_str() else {
                    return fail(format!(
                        "sequence item {i}: expected str instance, {} found",
                        item.type_name()
                    ));
                };
                push(&mut out, text)?;
            }
            return Ok(Value::str(out));
        }
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => {
            return search::search(this, method, given);
        }
        "partition" | "rpartition" => {
            let [separator] = given.plain(method, 1)?;
            let separator = separator.unwrap_or(Value::None);
            return search::partition(this, text(&separator)?, method == "partition");
        }
        "removeprefix" | "removesuffix" => {
            let [part] = given.plain(method, 1)?;
            let part = part.unwrap_or(Value::None);
            let part = text(&part)?;
            let kept =
                if method == "removeprefix" { this.strip_prefix(part) } else { this.strip_suffix(part) };
            return Ok(Value::str(kept.unwrap_or(this)));
        }
        "encode" => return fail("bytes have no place in a chat template"),
        "format_map" => {
            let [fields] = given.plain(method, 1)?;
            let Some(Value::Dict(fields)) = fields else { return fail("format_map() takes a dict") };
            let entry = |(key, value): &(Value, Value)| Some((key.as_str()?.into(), value.clone()));
            let named: Vec<_> = fields.iter().filter_map(entry).collect();
            return percent::format(this, &[], &named);
        }
        _ => {}
    }
    given.plain::<0>(method, 0)?;
    Ok(match method {
        "capitalize" => Value::str(capitalize(this)),
        "casefold" => Value::str(folded(this)),
        "lower" => Value::str(lower(this)),
        "upper" => Value::str(this.to_uppercase()),
        "swapcase" => Value::str(swap_case(this)),
        "title" => Value::str(title(this)),
        "isalnum" => Value::Bool(all(this, |c| c.is_alphabetic() && is_letter(c) || c.is_numeric())),
        "isalpha" => Value::Bool(all(this, is_letter)),
        "isascii" => Value::Bool(this.is_ascii()),
        "isdecimal" => Value::Bool(matches(&DECIMAL, this)),
        "isdigit" => Value::Bool(matches(&DIGIT, this)),
        "isnumeric" => Value::Bool(all(this, char::is_numeric)),
        "isidentifier" => {
            let first = this.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            Value::Bool(first && this.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "islower" => Value::Bool(is_cased(this, false)),
        "isupper" => Value::Bool(is_cased(this, true)),
        "isprintable" => Value::Bool(this.chars().all(is_printable)),
        "isspace" => Value::Bool(all(this, is_space)),
        "istitle" => Value::Bool(is_title(this)),
        other => return fail(format!("'str' object has no attribute '{other}'")),
    })
}

/// Letters are alphabetic, but marks and letter numbers that are alphabetic too are none.
fn is_letter(c: char) -> bool {
    static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}$").ok());
    c.is_ascii_alphabetic() || (!c.is_ascii() && matches(&LETTER, c.encode_utf8(&mut [0; 4])))
}

pub(super) fn lower(text: &str) -> String {
    text.to_lowercase()
}

/// The form of a text that counts no case: the letters that have no single small form are small after they were large.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            'ı' => out.push(c),
            'İ' => out.extend(c.to_lowercase()),
            c => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    out
}

/// The large form of a letter that begins a word.
fn large(c: char, out: &mut String) {
    let titled = match c {
        '\u{1c4}'..='\u{1c6}' => Some('\u{1c5}'),
        '\u{1c7}'..='\u{1c9}' => Some('\u{1c8}'),
        '\u{1ca}'..='\u{1cc}' => Some('\u{1cb}'),
        '\u{1f1}'..='\u{1f3}' => Some('\u{1f2}'),
        _ => None,
    };
    match titled {
        Some(titled) => out.push(titled),
        None => {
            let mut upper = c.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

pub(super) fn capitalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    if let Some(first) = letters.next() {
        large(first, &mut out);
    }
    out + &lower(letters.as_str())
}

fn has_case(c: char) -> bool {
    c.is_uppercase() || c.is_lowercase() || matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}')
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            large(c, &mut out);
        }
        in_word = has_case(c);
    }
    out
}

fn is_title(text: &str) -> bool {
    let (mut in_word, mut any) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && in_word) || (c.is_lowercase() && !in_word) {
            return false;
        }
        in_word = has_case(c);
        any |= in_word;
    }
    any
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
    }
    out
}

/// Whether the letters that have a case all have this one, and there are some.
pub(super) fn is_cased(text: &str, upper: bool) -> bool {
    let wrong = |c: char| if upper { c.is_lowercase() } else { c.is_uppercase() };
    text.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !text.chars().any(wrong)
}

/// The text without spaces, or without some characters, at its ends. What generation blocks wrote of it stays known.
pub(super) fn strip(value: &Value, chars: Option<&Value>, left: bool, right: bool) -> Result<Value> {
    let Value::Str(whole) = value else { return fail("expected a str") };
    let chars = chars.map(text).transpose()?;
    let drops = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let mut kept: &str = &whole.text;
    if right {
        kept = kept.trim_end_matches(drops);
    }
    let end = kept.len();
    if left {
        kept = kept.trim_start_matches(drops);
    }
    let start = end - kept.len();
    let spans = whole.spans.iter().flat_map(|spans| spans.iter()).filter_map(|span| {
        let (from, to) = (span.start.clamp(start, end) - start, span.end.clamp(start, end) - start);
        (from < to).then_some(from..to)
    });
    let spans: Vec<_> = spans.collect();
    Ok(Value::Str(Text { text: kept.into(), spans: (!spans.is_empty()).then(|| spans.into()) }))
}

pub(super) fn replace(text: &str, old: &str, new: &str, limit: i128) -> Result<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut out = String::new();
    let mut from = 0;
    for (at, _) in text.match_indices(old).take(limit) {
        push(&mut out, &text[from..at])?;
        push(&mut out, new)?;
        from = at + old.len();
    }
    push(&mut out, &text[from..])?;
    Ok(out)
}

pub(super) fn centered(text: &str, width: usize, fill: char) -> Result<String> {
    let missing = width.saturating_sub(char_count(text));
    if missing > MAX_TEXT {
        return fail("the text becomes too long");
    }
    let left = missing / 2 + (missing & width & 1);
    let fill = |count: usize| fill.to_string().repeat(count);
    Ok(format!("{}{text}{}", fill(left), fill(missing - left)))
}

fn padded(text: &str, method: &str, given: Given) -> Result<String> {
    let [width, fill] = given.plain(method, 1)?;
    let width = count(width.as_ref(), 0)?;
    let fill = fill.unwrap_or_else(|| Value::str(" "));
    let mut letters = fill.as_str().unwrap_or_default().chars();
    let (Some(letter), None) = (letters.next(), letters.next()) else {
        return fail("The fill character must be exactly one character long");
    };
    let missing = width.saturating_sub(char_count(text));
    if missing > MAX_TEXT {
        return fail("the text becomes too long");
    }
    let filled = |letter: char| letter.to_string().repeat(missing);
    match method {
        "center" => centered(text, width, letter),
        "ljust" => Ok(format!("{text}{}", filled(letter))),
        "rjust" => Ok(format!("{}{text}", filled(letter))),
        _ => {
            let sign = if text.starts_with(['+', '-']) { 1 } else { 0 };
            Ok(format!("{}{}{}", &text[..sign], filled('0'), &text[sign..]))
        }
    }
}

/// Lines, split at every line end that Python knows.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    while let Some(at) = rest.find(is_end) {
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn expand_tabs(text: &str, size: usize) -> Result<String> {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let missing = size - column % size;
                if missing > MAX_TEXT {
                    return fail("the text becomes too long");
                }
                push(&mut out, &" ".repeat(missing))?;
                column += missing;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}
