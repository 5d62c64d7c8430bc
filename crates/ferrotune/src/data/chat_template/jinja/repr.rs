//! Python's `str()` and `repr()`.

use super::object::Object;
use super::runtime::{Result, fail, push};
use super::value::{MAX_DEPTH, Value};
use regex::Regex;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// What `repr` writes as an escape although it is no control character of ASCII.
static UNPRINTABLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}]$").ok());

/// `str(value)`; nothing for an undefined value.
pub(super) fn to_str(value: &Value) -> Result<String> {
    let mut out = String::new();
    write_str(&mut out, value)?;
    Ok(out)
}

pub(super) fn write_str(out: &mut String, value: &Value) -> Result<()> {
    match value {
        Value::Str(text) => push(out, &text.text),
        Value::Undefined(_) => Ok(()),
        _ => write_repr(out, value, 0),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> Result<String> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

pub(super) fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return fail("the value nests too deeply to be written");
    }
    match value {
        Value::Undefined(_) => push(out, "Undefined"),
        Value::None => push(out, "None"),
        Value::Bool(b) => push(out, if *b { "True" } else { "False" }),
        Value::Int(n) => push(out, &n.to_string()),
        Value::Float(n) => push(out, &float(*n)),
        Value::Str(text) => push(out, &quoted(&text.text)),
        Value::List(items) => sequence(out, ["[", "]"], items, depth),
        Value::Tuple(items) => {
            let close = if items.len() == 1 { ",)" } else { ")" };
            sequence(out, ["(", close], items, depth)
        }
        Value::Dict(dict) => entries(out, dict, depth),
        Value::Object(object) => match object.as_ref() {
            Object::View(..) => {
                push(out, object.type_name())?;
                sequence(out, ["([", "])"], &object.items().unwrap_or_default(), depth)
            }
            Object::Range { start, stop, step: 1 } => push(out, &format!("range({start}, {stop})")),
            Object::Range { start, stop, step } => push(out, &format!("range({start}, {stop}, {step})")),
            Object::Namespace(fields) => {
                push(out, "<Namespace ")?;
                entries(out, &fields.borrow(), depth)?;
                push(out, ">")
            }
            Object::Loop(context) => {
                push(out, &format!("<LoopContext {}/{}>", context.index.get() + 1, context.items.len()))
            }
            Object::Macro(definition, _) => push(out, &format!("<Macro {}>", quoted(&definition.name))),
            other => push(out, &format!("<{}>", other.type_name())),
        },
    }
}

fn sequence(out: &mut String, brackets: [&str; 2], items: &[Value], depth: usize) -> Result<()> {
    push(out, brackets[0])?;
    for (i, item) in items.iter().enumerate() {
        push(out, if i > 0 { ", " } else { "" })?;
        write_repr(out, item, depth + 1)?;
    }
    push(out, brackets[1])
}

fn entries(out: &mut String, dict: &super::value::Dict, depth: usize) -> Result<()> {
    push(out, "{")?;
    for (i, (key, item)) in dict.iter().enumerate() {
        push(out, if i > 0 { ", " } else { "" })?;
        write_repr(out, key, depth + 1)?;
        push(out, ": ")?;
        write_repr(out, item, depth + 1)?;
    }
    push(out, "}")
}

/// `repr` of a float: shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
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

/// Whether `repr` writes a character as it is.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        c if c.is_ascii() => false,
        c => UNPRINTABLE.as_ref().is_none_or(|class| !class.is_match(c.encode_utf8(&mut [0; 4]))),
    }
}

/// `repr` of a string: single quotes unless it holds one and no double quote.
pub(super) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        let code = c as u32;
        // Writing into a string cannot fail.
        let _ = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => write!(out, "{c}"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
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
