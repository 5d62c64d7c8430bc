//! Filters of texts.

use super::arguments::{Given, count, int, text};
use super::filters::flag;
use super::lexer::is_space;
use super::methods_text as words;
use super::percent::truncated;
use super::repr::to_str;
use super::runtime::{MAX_TEXT, Result, fail, push};
use super::value::{Value, char_count, char_range};

pub(super) fn filter(name: &str, value: &Value, given: Given) -> Result<Value> {
    match name {
        "indent" => return indent(value, given).map(Value::str),
        "truncate" => return truncate(value, given),
        "filesizeformat" => return file_size(value, given).map(Value::str),
        "urlencode" => return url_encode(value, given).map(Value::str),
        "xmlattr" => return xml_attributes(value, given).map(Value::str),
        "wordwrap" => return wrap(value, given).map(Value::str),
        "trim" => {
            let [chars] = given.bind(name, ["chars"], 0)?;
            let chars = chars.filter(|chars| !matches!(chars, Value::None));
            let whole = Value::str(to_str(value)?);
            let whole = if value.as_str().is_some() { value } else { &whole };
            return words::strip(whole, chars.as_ref(), true, true);
        }
        _ => {}
    }
    let value = to_str(value)?;
    if name == "replace" {
        let [old, new, limit] = given.bind(name, ["old", "new", "count"], 2)?;
        let part = |value: Option<Value>| to_str(&value.unwrap_or(Value::None));
        let limit = match limit {
            None | Some(Value::None) => -1,
            Some(limit) => int(&limit)?,
        };
        return words::replace(&value, &part(old)?, &part(new)?, limit).map(Value::str);
    }
    if name == "center" {
        let [width] = given.bind(name, ["width"], 0)?;
        return words::centered(&value, count(width.as_ref(), 80)?, ' ').map(Value::str);
    }
    given.plain::<0>(name, 0)?;
    Ok(match name {
        "capitalize" => Value::str(words::capitalize(&value)),
        "lower" => Value::str(words::lower(&value)),
        "upper" => Value::str(value.to_uppercase()),
        "title" => Value::str(title(&value)),
        "wordcount" => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            Value::size(value.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count())
        }
        "striptags" => Value::str(without_tags(&value)),
        _ => Value::str(escaped(&value)),
    })
}

/// Every word, as brackets, hyphens and spaces set it apart, with a large first letter.
fn title(text: &str) -> String {
    let is_break = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut out = String::new();
    let mut first = true;
    let mut word = String::new();
    for c in text.chars() {
        if is_break(c) {
            out.push_str(&words::lower(&word));
            word.clear();
            out.push(c);
            first = true;
        } else if first {
            out.extend(c.to_uppercase());
            first = false;
        } else {
            word.push(c);
        }
    }
    out + &words::lower(&word)
}

fn indent(value: &Value, given: Given) -> Result<String> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"], 0)?;
    let margin = match &width {
        Some(Value::Str(text)) => text.text.to_string(),
        other => {
            let width = count(other.as_ref(), 4)?;
            if width > MAX_TEXT {
                return fail("the text becomes too long");
            }
            " ".repeat(width)
        }
    };
    let whole = match value {
        Value::Undefined(what) => return fail(what.as_ref()),
        other => format!("{}\n", text(other)?),
    };
    let lines = words::lines(&whole, false);
    let mut out = if flag(first.as_ref()) { margin.clone() } else { String::new() };
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            push(&mut out, "\n")?;
            push(&mut out, if !line.is_empty() || flag(blank.as_ref()) { &margin } else { "" })?;
        }
        push(&mut out, line)?;
    }
    Ok(out)
}

fn truncate(value: &Value, given: Given) -> Result<Value> {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = count(length.as_ref(), 255)?;
    let end = end.as_ref().map_or(Ok("..."), text)?.to_string();
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) if int(&leeway)? < 0 => return fail("expected leeway >= 0"),
        other => count(other.as_ref(), 5)?,
    };
    let Some(room) = length.checked_sub(char_count(&end)) else {
        return fail(format!("expected length >= {}, got {length}", char_count(&end)));
    };
    if value.len()? <= length.saturating_add(leeway) {
        return Ok(value.clone());
    }
    let whole = text(value)?;
    let kept = char_range(whole, 0..room);
    let kept =
        if flag(kill.as_ref()) { kept } else { kept.rsplit_once(' ').map_or(kept, |(before, _)| before) };
    Ok(Value::str(format!("{kept}{end}")))
}

fn file_size(value: &Value, given: Given) -> Result<String> {
    let [binary] = given.bind("filesizeformat", ["binary"], 0)?;
    let bytes = match value {
        Value::Str(text) => text.text.trim().parse().ok(),
        other => other.as_float(),
    };
    let Some(bytes) = bytes else { return fail("could not convert the value to a float") };
    let (base, prefixes): (f64, [&str; 8]) = match flag(binary.as_ref()) {
        true => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes == 1.0 {
        return Ok("1 Byte".to_string());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", truncated(bytes)?));
    }
    let mut unit = base;
    for prefix in prefixes {
        unit *= base;
        if bytes < unit || prefix.starts_with('Y') {
            return Ok(format!("{:.1} {prefix}", base * bytes / unit));
        }
    }
    fail("the size is no number")
}

fn url_encode(value: &Value, given: Given) -> Result<String> {
    given.plain::<0>("urlencode", 0)?;
    let quoted = |text: &str, in_query: bool| {
        let mut out = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                    out.push(char::from(byte))
                }
                b'/' if !in_query => out.push('/'),
                b' ' if in_query => out.push('+'),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        out
    };
    let pairs = match value {
        Value::Dict(dict) => dict.iter().map(|(k, v)| Value::tuple(vec![k.clone(), v.clone()])).collect(),
        other if other.is_iterable() && other.as_str().is_none() => other.items()?,
        other => return Ok(quoted(&to_str(other)?, false)),
    };
    let mut out = Vec::new();
    for pair in pairs {
        let items = pair.items()?;
        let [key, value] = items.as_slice() else { return fail("expected pairs of names and values") };
        out.push(format!("{}={}", quoted(&to_str(key)?, true), quoted(&to_str(value)?, true)));
    }
    Ok(out.join("&"))
}

fn xml_attributes(value: &Value, given: Given) -> Result<String> {
    let [space] = given.bind("xmlattr", ["autospace"], 0)?;
    let Value::Dict(dict) = value else { return fail("xmlattr takes a dict") };
    let mut parts = Vec::new();
    for (key, value) in dict.iter().filter(|(_, v)| !matches!(v, Value::None | Value::Undefined(_))) {
        let key = to_str(key)?;
        if key.contains(|c| is_space(c) || matches!(c, '/' | '>' | '=')) {
            return fail(format!("Invalid character in attribute name: {key:?}"));
        }
        parts.push(format!("{}=\"{}\"", escaped(&key), escaped(&to_str(value)?)));
    }
    let leads = space.as_ref().is_none_or(Value::truth) && !parts.is_empty();
    Ok(format!("{}{}", if leads { " " } else { "" }, parts.join(" ")))
}

/// The text with the letters that HTML reserves written as entities.
fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
    text.replace('\'', "&#39;").replace('"', "&#34;")
}

fn without_tags(text: &str) -> String {
    let mut out = text.to_string();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut kept = String::new();
        let mut rest = out.as_str();
        while let Some(start) = rest.find(open) {
            let Some(end) = rest[start..].find(close) else { break };
            kept.push_str(&rest[..start]);
            rest = &rest[start + end + close.len()..];
        }
        kept.push_str(rest);
        out = kept;
    }
    let words: Vec<&str> = out.split(is_space).filter(|word| !word.is_empty()).collect();
    let text = words.join(" ").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&#34;", "\"").replace("&#39;", "'").replace("&amp;", "&")
}

/// Lines of a width at most, broken between words.
fn wrap(value: &Value, given: Given) -> Result<String> {
    let [width, long, separator, hyphens] =
        given.bind("wordwrap", ["width", "break_long_words", "wrapstring", "break_on_hyphens"], 0)?;
    let width = count(width.as_ref(), 79)?;
    if width == 0 {
        return fail("the width must be above zero");
    }
    let separator = match &separator {
        None | Some(Value::None) => "\n",
        Some(given) => text(given)?,
    };
    let breaks = long.as_ref().is_none_or(Value::truth);
    let hyphens = hyphens.as_ref().is_none_or(Value::truth);
    let mut out = String::new();
    for (i, line) in words::lines(text(value)?, false).iter().enumerate() {
        push(&mut out, if i > 0 { separator } else { "" })?;
        for (j, part) in wrapped(line, width, breaks, hyphens).iter().enumerate() {
            push(&mut out, if j > 0 { separator } else { "" })?;
            push(&mut out, part)?;
        }
    }
    Ok(out)
}

/// Pieces of a line between which it may be broken: words, parts of words with hyphens, and the spaces between.
fn pieces(line: &str, hyphens: bool) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut last: Option<char> = None;
    let letters: Vec<char> = line.chars().collect();
    for (at, &c) in letters.iter().enumerate() {
        let space = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
        let after_hyphen = hyphens
            && last == Some('-')
            && c.is_alphabetic()
            && at >= 3
            && letters[at - 2].is_alphabetic()
            && letters[at - 3].is_alphabetic()
            && letters.get(at + 1).is_some_and(|c| c.is_alphabetic());
        let starts = last.is_none_or(|last| space(last) != space(c)) || after_hyphen;
        match pieces.last_mut() {
            Some(piece) if !starts => piece.push(c),
            _ => pieces.push(c.to_string()),
        }
        last = Some(c);
    }
    pieces
}

fn wrapped(line: &str, width: usize, breaks: bool, hyphens: bool) -> Vec<String> {
    let mut left: std::collections::VecDeque<String> = pieces(line, hyphens).into();
    let mut lines: Vec<String> = Vec::new();
    let is_blank = |piece: &str| piece.trim().is_empty();
    while !left.is_empty() {
        let mut current: Vec<String> = Vec::new();
        let mut used = 0;
        if !lines.is_empty() && left.front().is_some_and(|piece| is_blank(piece)) {
            left.pop_front();
        }
        while let Some(piece) = left.front() {
            let count = char_count(piece);
            if used + count > width {
                break;
            }
            used += count;
            current.extend(left.pop_front());
        }
        if let Some(piece) = left.front().filter(|piece| char_count(piece) > width).cloned() {
            if breaks {
                let room = (width - used).max(1);
                current.push(char_range(&piece, 0..room).to_string());
                left[0] = char_range(&piece, room..usize::MAX).to_string();
            } else if current.is_empty() {
                current.extend(left.pop_front());
            }
        }
        if current.last().is_some_and(|piece| is_blank(piece)) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat());
        }
    }
    lines
}
