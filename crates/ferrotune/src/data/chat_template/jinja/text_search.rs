//! Methods of `str` that look for something in it.

use super::arguments::{Given, int, text};
use super::lexer::is_space;
use super::runtime::{Result, fail};
use super::value::{Value, char_count, char_range};

/// `split` and `rsplit`.
pub(super) fn split(this: &str, method: &str, given: Given) -> Result<Value> {
    let [separator, limit] = given.bind(method, ["sep", "maxsplit"], 0)?;
    let limit = limit.as_ref().map_or(Ok(-1), int)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX - 1);
    let from_right = method == "rsplit";
    let parts: Vec<&str> = match separator.filter(|separator| !matches!(separator, Value::None)) {
        None => words(this, limit, from_right),
        Some(separator) => {
            let separator = text(&separator)?;
            if separator.is_empty() {
                return fail("empty separator");
            }
            match from_right {
                false => this.splitn(limit + 1, separator).collect(),
                true => {
                    let mut parts: Vec<&str> = this.rsplitn(limit + 1, separator).collect();
                    parts.reverse();
                    parts
                }
            }
        }
    };
    Ok(Value::list(parts.into_iter().map(Value::str).collect()))
}

/// Words between spaces, a number of them at most; the last part keeps its spaces inside.
fn words(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if parts.len() == limit {
            parts.push(rest);
            break;
        }
        let found = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = found else {
            parts.push(rest);
            break;
        };
        if from_right {
            let end = at + rest[at..].chars().next().map_or(1, char::len_utf8);
            parts.push(&rest[end..]);
            rest = &rest[..at];
        } else {
            parts.push(&rest[..at]);
            rest = &rest[at..];
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// `startswith`, `endswith`, `find`, `rfind`, `index`, `rindex` and `count`, all with bounds.
pub(super) fn search(this: &str, method: &str, given: Given) -> Result<Value> {
    let [needle, start, stop] = given.plain(method, 1)?;
    let needle = needle.unwrap_or(Value::None);
    let length = char_count(this);
    let bound = |value: Option<Value>, default: usize| -> Result<usize> {
        match value {
            None | Some(Value::None) => Ok(default),
            Some(value) => {
                let at = int(&value)?;
                let at = if at < 0 { at.saturating_add(length as i128).max(0) } else { at };
                Ok(usize::try_from(at).unwrap_or(usize::MAX))
            }
        }
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?.min(length));
    // A start behind the end finds nothing, not even an empty text.
    let part = (start <= stop).then(|| char_range(this, start..stop));
    if matches!(method, "startswith" | "endswith") {
        let has = |needle: &str| match method {
            "startswith" => part.is_some_and(|part| part.starts_with(needle)),
            _ => part.is_some_and(|part| part.ends_with(needle)),
        };
        return match &needle {
            Value::Tuple(needles) => {
                for needle in needles.iter() {
                    if has(text(needle)?) {
                        return Ok(Value::Bool(true));
                    }
                }
                Ok(Value::Bool(false))
            }
            other => Ok(Value::Bool(has(text(other)?))),
        };
    }
    let needle = text(&needle)?;
    let part = part.unwrap_or_default();
    let is_outside = start > stop;
    if method == "count" {
        let count = if is_outside { 0 } else { part.matches(needle).count() };
        return Ok(Value::size(count));
    }
    let found = if method.starts_with('r') { part.rfind(needle) } else { part.find(needle) };
    match found.filter(|_| !is_outside) {
        Some(at) => Ok(Value::size(start + char_count(&part[..at]))),
        None if method.ends_with("find") => Ok(Value::Int(-1)),
        None => fail("substring not found"),
    }
}

/// `partition` and `rpartition`.
pub(super) fn partition(this: &str, separator: &str, from_left: bool) -> Result<Value> {
    if separator.is_empty() {
        return fail("empty separator");
    }
    let found = if from_left { this.split_once(separator) } else { this.rsplit_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if from_left => [this, "", ""],
        None => ["", "", this],
    };
    Ok(Value::tuple(parts.map(Value::str).to_vec()))
}
