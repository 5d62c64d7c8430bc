//! The filters of Jinja, and `tojson` as `transformers` defines it.

use super::arguments::{Given, count, int, text};
use super::compare::order;
use super::methods_text as words;
use super::object::Object;
use super::percent::{percent, truncated};
use super::render::Renderer;
use super::repr::{repr, to_str};
use super::runtime::{Result, fail};
use super::value::{Dict, Text, Value};
use super::{access, filters_list as lists, filters_text as texts};

const NAMES: [&str; 54] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
];

pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether an argument is given and true.
pub(super) fn flag(value: Option<&Value>) -> bool {
    value.is_some_and(Value::truth)
}

/// `value | name(...)`.
pub(super) fn filter(renderer: &Renderer<'_>, name: &str, value: Value, given: Given) -> Result<Value> {
    match name {
        "batch" | "slice" | "dictsort" | "first" | "groupby" | "items" | "join" | "last" | "list" | "map"
        | "max" | "min" | "reject" | "rejectattr" | "reverse" | "select" | "selectattr" | "sort" | "sum"
        | "unique" => lists::filter(renderer, name, value, given),
        "capitalize" | "center" | "filesizeformat" | "indent" | "lower" | "replace" | "striptags"
        | "title" | "trim" | "truncate" | "upper" | "urlencode" | "wordcount" | "wordwrap" | "xmlattr"
        | "e" | "escape" | "forceescape" => texts::filter(name, &value, given),
        "abs" => {
            given.plain::<0>(name, 0)?;
            match (&value, value.as_int()) {
                (Value::Float(number), _) => Ok(Value::Float(number.abs())),
                (_, Some(number)) => Ok(Value::Int(number.saturating_abs())),
                (Value::Undefined(what), _) => fail(what.as_ref()),
                _ => fail(format!("bad operand type for abs(): '{}'", value.type_name())),
            }
        }
        "attr" => {
            let [field] = given.bind(name, ["name"], 1)?;
            let field = to_str(&field.unwrap_or(Value::None))?;
            match &value {
                Value::Dict(_) if !super::methods::is_attribute(&value, &field) => {
                    Ok(Value::undefined(format!("'dict object' has no attribute '{field}'")))
                }
                _ => access::attribute(&value, &field),
            }
        }
        "count" | "length" => {
            given.plain::<0>(name, 0)?;
            value.len().map(Value::size)
        }
        "d" | "default" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"], 0)?;
            let replaced = value.is_undefined() || (flag(boolean.as_ref()) && !value.truth());
            Ok(if replaced { default.unwrap_or_else(|| Value::str("")) } else { value })
        }
        "float" => {
            let [default] = given.bind(name, ["default"], 0)?;
            match to_float(&value)? {
                Some(number) => Ok(Value::Float(number)),
                None => Ok(default.unwrap_or(Value::Float(0.0))),
            }
        }
        "int" => to_int(&value, given),
        "format" => {
            let pattern = to_str(&value)?;
            if !given.positional.is_empty() && !given.named.is_empty() {
                return fail("can't handle positional and keyword arguments at the same time");
            }
            let mut named = Dict::default();
            for (key, value) in given.named {
                named.set(Value::str(&*key), value)?;
            }
            let values = if named.len() > 0 { Value::dict(named) } else { Value::tuple(given.positional) };
            percent(&pattern, &values)
        }
        "pprint" => {
            given.plain::<0>(name, 0)?;
            let text = repr(&lists::sorted_keys(&value)?)?;
            match text.len() > 80 {
                true => fail("pprint breaks long values into lines, which is not supported"),
                false => Ok(Value::str(text)),
            }
        }
        "round" => round(&value, given),
        "safe" | "string" => {
            given.plain::<0>(name, 0)?;
            match value {
                Value::Str(text) => Ok(Value::Str(text)),
                other => Ok(Value::str(to_str(&other)?)),
            }
        }
        "tojson" => super::json::to_json(&value, given),
        "random" => fail("the filter 'random' is random, so no model was trained with it"),
        "urlize" => fail("the filter 'urlize' makes HTML, which is not supported"),
        other => fail(format!("no filter named '{other}'")),
    }
}

/// `float(value)`, if it has one.
fn to_float(value: &Value) -> Result<Option<f64>> {
    match value {
        Value::Undefined(what) => fail(what.as_ref()),
        Value::Str(text) => Ok(parsed_float(&text.text)),
        other => Ok(other.as_float()),
    }
}

fn parsed_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(super::lexer::is_space);
    let lower = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let bytes = text.as_bytes();
    let between_digits = |at: usize| {
        let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
        digit(at.checked_sub(1)) && digit(Some(at + 1))
    };
    if !text.char_indices().filter(|(_, c)| *c == '_').all(|(at, _)| between_digits(at)) {
        return None;
    }
    let is_word = matches!(&*lower, "nan" | "inf" | "infinity");
    let is_number = lower.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if is_word || is_number { text.replace('_', "").parse().ok() } else { None }
}

/// `int(text, base)`.
fn parsed_int(text: &str, base: u32) -> Option<i128> {
    let text = text.trim_matches(super::lexer::is_space);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed =
        [("0b", 2), ("0o", 8), ("0x", 16)].into_iter().find(|(prefix, _)| lower.starts_with(prefix));
    let (digits, base) = match (prefixed, base) {
        (Some((_, radix)), 0) => (&digits[2..], radix),
        (Some((_, radix)), base) if radix == base => (&digits[2..], radix),
        (None, 0) => (digits, 10),
        (_, base) => (digits, base),
    };
    let is_grouped = !digits.starts_with('_') && !digits.ends_with('_') && !digits.contains("__");
    let plain = digits.replace('_', "");
    let is_plain = is_grouped && !plain.is_empty() && plain.chars().all(|c| c.is_digit(base));
    if !is_plain { None } else { i128::from_str_radix(&plain, base).ok().map(|number| sign * number) }
}

fn to_int(value: &Value, given: Given) -> Result<Value> {
    let [default, base] = given.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    let base = match base.as_ref().map_or(Ok(10), int)? {
        base @ (0 | 2..=36) => u32::try_from(base).unwrap_or(10),
        _ => return Ok(default),
    };
    let number = match value {
        Value::Undefined(what) => return fail(what.as_ref()),
        Value::Str(text) => match parsed_int(&text.text, base) {
            Some(number) => Some(number),
            None => parsed_float(&text.text).and_then(|number| truncated(number).ok()),
        },
        Value::Float(number) if number.is_infinite() => {
            return fail("cannot convert float infinity to integer");
        }
        Value::Float(number) => truncated(*number).ok(),
        other => other.as_int(),
    };
    Ok(number.map_or(default, Value::Int))
}

fn round(value: &Value, given: Given) -> Result<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"], 0)?;
    let precision = precision.as_ref().map_or(Ok(0), int)?;
    let method = method.as_ref().map_or(Ok("common"), text)?;
    if precision.abs() > 400 {
        return fail("the precision of round is too large");
    }
    let digits = i32::try_from(precision).unwrap_or(0);
    let Some(number) = value.as_float() else {
        return match value {
            Value::Undefined(what) => fail(what.as_ref()),
            other => fail(format!("type {} doesn't define __round__ method", other.type_name())),
        };
    };
    match (method, value.as_int()) {
        ("common", Some(number)) if digits >= 0 => Ok(Value::Int(number)),
        ("common", Some(number)) => {
            let Some(unit) = 10_i128.checked_pow(digits.unsigned_abs()) else { return Ok(Value::Int(0)) };
            let (low, rest) = (number.div_euclid(unit), number.rem_euclid(unit));
            let up = rest * 2 > unit || (rest * 2 == unit && low % 2 != 0);
            Ok(Value::Int((low + i128::from(up)) * unit))
        }
        ("common", None) => Ok(Value::Float(rounded(number, digits))),
        ("ceil" | "floor", _) => {
            let scale = 10_f64.powi(digits);
            let scaled = if digits >= 0 { number * scale } else { number * 10_f64.powi(digits) };
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            Ok(Value::Float(truncated(whole)? as f64 / scale))
        }
        _ => fail("method must be common, ceil or floor"),
    }
}

/// `round(number, digits)`: to the nearest, to even where two are as near.
fn rounded(number: f64, digits: i32) -> f64 {
    if !number.is_finite() || digits > 300 {
        return number;
    }
    match usize::try_from(digits) {
        Ok(digits) => format!("{number:.digits$}").parse().unwrap_or(number),
        Err(_) => {
            let unit = 10_f64.powi(-digits);
            (number / unit).round_ties_even() * unit
        }
    }
}

/// `str(value).lower()` for texts where case does not count.
pub(super) fn folded(value: &Value) -> Value {
    match value {
        Value::Str(Text { text, .. }) => Value::str(words::lower(text)),
        other => other.clone(),
    }
}

/// Sorts values by keys, in the order of Python and stably.
pub(super) fn sort_by_keys(keyed: &mut [(Value, Value)], reverse: bool) -> Result<()> {
    let mut failure = None;
    keyed.sort_by(|(a, _), (b, _)| {
        let (a, b) = if reverse { (b, a) } else { (a, b) };
        match order(a, b, "<") {
            Ok(found) => found.unwrap_or(std::cmp::Ordering::Equal),
            Err(problem) => {
                failure.get_or_insert(problem);
                std::cmp::Ordering::Equal
            }
        }
    });
    failure.map_or(Ok(()), Err)
}

/// An iterator that a generator of Jinja's filters gives.
pub(super) fn generator(items: Vec<Value>) -> Value {
    Object::iterator("generator", items)
}

/// A count that must be a number above zero.
pub(super) fn positive(value: Option<&Value>, name: &str) -> Result<usize> {
    match count(value, 0)? {
        0 => fail(format!("{name} must be above zero")),
        count => Ok(count),
    }
}
