//! Python's text form of values and operators, and the string methods that minijinja's helpers lack.

use super::names::{COMPARE, CONCAT, FLAG, GENERATION_END, GENERATION_START, MODULO, STORED};
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;
use std::fmt::Write as _;

/// Containers nested deeper are written as `...`: no real message is, and a template must not exhaust the stack.
pub(super) const MAX_DEPTH: usize = 100;

/// Bytes of one piece of text, and values in one stored value. Templates that double something stop here.
pub(super) const MAX_TEXT: usize = 64 << 20;
const MAX_STORED: usize = 100_000;

/// Widths and precisions of text formatting stay below ten thousand.
const MAX_WIDTH_DIGITS: usize = 4;

/// Marks in the output where a generation block starts and ends; removed before anyone sees the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) start: char,
    pub(super) end: char,
}

/// Message of `raise_exception`, carried through minijinja's errors unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// Gives an environment Python's behaviour where minijinja has its own.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(|out: &mut Output, _state: &mut State, value: &Value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&to_str(value)?),
        };
        written.map_err(|_| invalid("cannot write"))
    });
    env.set_unknown_method_callback(method);
    env.add_filter("format", |pattern: &str, values: Rest<Value>| {
        formatted(FormatStyle::Printf, pattern, &format_arguments(&values)?)
    });
    env.add_filter("string", |value: &Value| to_str(value));
    env.add_function(CONCAT, |values: Rest<Value>| -> Result<String, Error> {
        let mut out = String::new();
        for value in values.iter() {
            write_str(&mut out, value)?;
        }
        Ok(out)
    });
    env.add_filter("join", join);
    env.add_function(STORED, stored);
    env.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    env.add_test("sequence", |v: &Value| {
        let kind = v.kind();
        matches!(
            kind,
            ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Map | ValueKind::Undefined
        )
    });
    env.add_function(MODULO, modulo);
    env.add_function(COMPARE, compare);
    env.add_function("namespace", namespace);
    env.add_function(FLAG, namespace);
    env.add_function("raise_exception", |message: &Value| -> Result<String, Error> {
        let message = to_str(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
}

/// Defines what a generation block writes at its ends.
pub(super) fn install_marks(env: &mut Environment<'static>, marks: Marks) {
    env.add_global(GENERATION_START, marks.start.to_string());
    env.add_global(GENERATION_END, marks.end.to_string());
}

/// A JSON value as a template value; objects keep their order.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `str(value)`; nothing for an undefined value.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_str(&mut out, value)?;
    Ok(out)
}

fn write_str(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => push(out, text),
        None => write_repr(out, value, 0),
    }
}

/// Adds text unless the whole becomes too long.
pub(super) fn push(out: &mut String, text: &str) -> Result<(), Error> {
    if out.len() + text.len() > MAX_TEXT {
        return Err(invalid("the text becomes too long"));
    }
    out.push_str(text);
    Ok(())
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str(if depth == 0 { "" } else { "Undefined" }),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => push(out, &quoted(value.as_str().unwrap_or_default()))?,
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map if depth == MAX_DEPTH => {
            return Err(invalid("nested too deeply"));
        }
        // The sum of two lists is no `Seq` here, but a list in Python.
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.downcast_object_ref::<Tuple>();
            push(out, if tuple.is_some() { "(" } else { "[" })?;
            let mut items = 0;
            for item in value.try_iter()? {
                push(out, if items > 0 { ", " } else { "" })?;
                write_repr(out, &item, depth + 1)?;
                items += 1;
            }
            out.push_str(match (tuple, items) {
                (None, _) => "]",
                (Some(_), 1) => ",)",
                (Some(_), _) => ")",
            });
        }
        ValueKind::Map => {
            push(out, "{")?;
            for (i, (key, item)) in pairs(value).iter().enumerate() {
                push(out, if i > 0 { ", " } else { "" })?;
                write_repr(out, key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, item, depth + 1)?;
            }
            out.push('}');
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// What a namespace is to hold: of bounded size and depth, so that nothing that walks or drops it runs out of stack.
fn stored(state: &mut State, value: &Value) -> Result<Value, Error> {
    fn count(value: &Value, depth: usize, seen: &mut usize) -> Result<(), Error> {
        *seen += 1;
        if depth > MAX_DEPTH || *seen > MAX_STORED {
            return Err(invalid("the value is too large or nested too deeply to be kept in a namespace"));
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()? {
                    count(&item, depth + 1, seen)?;
                }
            }
            ValueKind::Map if value.as_object().is_some_and(|o| o.type_name().ends_with("Namespace")) => {
                return Err(invalid("a namespace cannot be kept in a namespace"));
            }
            ValueKind::Map => {
                for (_, item) in pairs(value) {
                    count(&item, depth + 1, seen)?;
                }
            }
            _ => {}
        }
        Ok(())
    }
    let mut seen = 0;
    count(value, 0, &mut seen)?;
    state.consume_fuel(seen as u64)?;
    Ok(value.clone())
}

pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(|object| object.try_iter_pairs()).map(Iterator::collect).unwrap_or_default()
}

pub(super) fn write_number(out: &mut String, value: &Value) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return;
    }
    match f64::try_from(value.clone()) {
        Ok(number) => out.push_str(&float(number)),
        Err(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

/// `repr` of a float: shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_string();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_string();
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{number}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `repr` of a string: single quotes unless it holds one and no double quote.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Arguments of text formatting: what Rust would write differently goes in as text already.
fn format_arguments(values: &[Value]) -> Result<Vec<Value>, Error> {
    values
        .iter()
        .map(|value| match value.kind() {
            ValueKind::Number | ValueKind::String => Ok(value.clone()),
            _ if value.is_kwargs() => Ok(value.clone()),
            _ => to_str(value).map(Value::from),
        })
        .collect()
}

/// `format` without its power to allocate: a width or precision comes from the template, so it is bounded here.
fn formatted(style: FormatStyle, pattern: &str, arguments: &[Value]) -> Result<Value, Error> {
    let digits =
        pattern.split(|c: char| !c.is_ascii_digit()).map(|run| run.trim_start_matches('0').len()).max();
    let given = matches!(style, FormatStyle::Printf) && pattern.contains('*') || pattern.contains("{}}");
    if given || digits.unwrap_or(0) > MAX_WIDTH_DIGITS {
        return Err(invalid("a width or precision in text formatting is too large"));
    }
    format(style, pattern, arguments).map(Value::from)
}

fn modulo(left: &Value, right: &Value) -> Result<Value, Error> {
    if let Some(text) = left.as_str() {
        let arguments = match right.downcast_object_ref::<Tuple>() {
            Some(tuple) => format_arguments(tuple)?,
            None if right.kind() == ValueKind::Map => vec![right.clone()],
            None => format_arguments(std::slice::from_ref(right))?,
        };
        return formatted(FormatStyle::Printf, text, &arguments);
    }
    let unsupported = || invalid(format!("% is not possible between {} and {}", left.kind(), right.kind()));
    let is_number = |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool);
    if !is_number(left) || !is_number(right) {
        return Err(unsupported());
    }
    // In Python true and false are the numbers 1 and 0.
    let plain =
        |v: &Value| if v.kind() == ValueKind::Bool { Value::from(i64::from(v.is_true())) } else { v.clone() };
    let (left, right) = (&plain(left), &plain(right));
    if let (Ok(a), Ok(b)) = (i128::try_from(left.clone()), i128::try_from(right.clone()))
        && left.is_integer()
        && right.is_integer()
    {
        let remainder = a.checked_rem(b).ok_or_else(|| invalid("modulo by zero"))?;
        let shifted = remainder != 0 && (remainder < 0) != (b < 0);
        let result = if shifted { remainder + b } else { remainder };
        return Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from));
    }
    let (a, b) = (f64::try_from(left.clone())?, f64::try_from(right.clone())?);
    if b == 0.0 {
        return Err(invalid("modulo by zero"));
    }
    let remainder = a % b;
    Ok(Value::from(if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) {
        remainder + b
    } else {
        remainder
    }))
}

/// `<` and its kin: numbers with numbers, text with text, lists with lists; anything else is an error as in Python.
fn compare(operator: &str, left: &Value, right: &Value) -> Result<bool, Error> {
    let class = |v: &Value| match v.kind() {
        ValueKind::Number | ValueKind::Bool => Some(0),
        ValueKind::String => Some(1),
        ValueKind::Seq if v.downcast_object_ref::<Tuple>().is_some() => Some(2),
        ValueKind::Seq | ValueKind::Iterable => Some(3),
        _ => None,
    };
    if class(left).is_none() || class(left) != class(right) {
        return Err(invalid(format!(
            "{operator} is not possible between {} and {}",
            left.kind(),
            right.kind()
        )));
    }
    let is_nan = |v: &Value| f64::try_from(v.clone()).is_ok_and(f64::is_nan);
    if class(left) == Some(0) && (is_nan(left) || is_nan(right)) {
        return Ok(false);
    }
    let order = left.cmp(right);
    Ok(match operator {
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    })
}

fn namespace(state: &mut State, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let given: Vec<Value> = positional.iter().cloned().chain(std::iter::once(Value::from(named))).collect();
    for argument in &given {
        if let Some((key, _)) =
            pairs(argument).iter().find(|(key, _)| key.as_str().is_some_and(|k| k.starts_with('_')))
        {
            return Err(invalid(format!(
                "a namespace cannot hold `{key}`: names starting with _ are private"
            )));
        }
    }
    // minijinja's own function is the only way to make the object that `set ns.x` accepts.
    Value::from_function(minijinja::functions::namespace).call(state, &given)
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str()
        && let Some(done) = string_method(text, name, args)?
    {
        return Ok(done);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// Jinja's `join`, whose result is of bounded length: one long text may stand in a list many times.
fn join(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        match args.get(at) {
            Some(given) => Ok(Some(given.clone())),
            None => kwargs.get(name),
        }
    };
    let separator = option(0, "d")?.map_or(Ok(String::new()), |value| to_str(&value))?;
    let attribute = option(1, "attribute")?.map_or(Ok(String::new()), |value| to_str(&value))?;
    kwargs.assert_all_used()?;
    if let Some(text) = value.as_str() {
        let letters: Vec<Value> = text.chars().map(|c| Value::from(c.to_string())).collect();
        return joined(&separator, letters.into_iter());
    }
    let part = |item: Value| {
        let mut path = attribute.split('.').filter(|name| !name.is_empty());
        path.try_fold(item, |item, name| item.get_attr(name))
    };
    let items = value.try_iter()?.map(part).collect::<Result<Vec<_>, _>>()?;
    joined(&separator, items.into_iter())
}

fn joined(separator: &str, items: impl Iterator<Item = Value>) -> Result<String, Error> {
    let mut out = String::new();
    for (i, item) in items.enumerate() {
        push(&mut out, if i > 0 { separator } else { "" })?;
        write_str(&mut out, &item)?;
    }
    Ok(out)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let argument = |i: usize| args.get(i).and_then(Value::as_str);
    Ok(Some(match (name, args.len()) {
        ("format", _) => formatted(FormatStyle::StrFormat, text, &format_arguments(args)?)?,
        ("join", 1) => {
            let items: Vec<Value> = args[0].try_iter()?.collect();
            if let Some(other) = items.iter().find(|item| item.as_str().is_none()) {
                return Err(invalid(format!("join of {}, expected text", other.kind())));
            }
            Value::from(joined(text, items.into_iter())?)
        }
        ("title", 0) => Value::from(title(text)),
        ("casefold", 0) => Value::from(text.to_lowercase()),
        ("removeprefix", 1) => {
            Value::from(text.strip_prefix(argument(0).unwrap_or_default()).unwrap_or(text))
        }
        ("removesuffix", 1) => {
            Value::from(text.strip_suffix(argument(0).unwrap_or_default()).unwrap_or(text))
        }
        ("partition" | "rpartition", 1) => {
            let separator =
                argument(0).filter(|s| !s.is_empty()).ok_or_else(|| invalid("empty separator"))?;
            let found =
                if name == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        ("rsplit", 1 | 2) if argument(0).is_some_and(|s| !s.is_empty()) => {
            let limit = args.get(1).and_then(Value::as_i64).and_then(|n| usize::try_from(n).ok());
            let separator = argument(0).unwrap_or_default();
            let mut parts: Vec<&str> = match limit {
                Some(n) => text.rsplitn(n + 1, separator).collect(),
                None => text.rsplit(separator).collect(),
            };
            parts.reverse();
            Value::from_iter(parts)
        }
        _ => return Ok(None),
    }))
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        match (c.is_alphabetic(), in_word) {
            (true, false) => out.extend(c.to_uppercase()),
            (true, true) => out.extend(c.to_lowercase()),
            (false, _) => out.push(c),
        }
        in_word = c.is_alphabetic();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (1e16, "1e+16"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (1.5e300, "1.5e+300"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
