//! The tests of Jinja: what may stand behind `is`.

use super::arguments::Given;
use super::arithmetic::binary;
use super::ast::{Binary, Comparison};
use super::compare::compare;
use super::object::Object;
use super::render::Renderer;
use super::repr::to_str;
use super::runtime::{Result, fail};
use super::value::{Value, hashable};
use super::{filters, methods_text};
use std::rc::Rc;

const COMPARISONS: [(&str, Comparison); 16] = [
    ("==", Comparison::Eq),
    ("eq", Comparison::Eq),
    ("equalto", Comparison::Eq),
    ("!=", Comparison::Ne),
    ("ne", Comparison::Ne),
    (">", Comparison::Gt),
    ("gt", Comparison::Gt),
    ("greaterthan", Comparison::Gt),
    (">=", Comparison::Ge),
    ("ge", Comparison::Ge),
    ("<", Comparison::Lt),
    ("lt", Comparison::Lt),
    ("lessthan", Comparison::Lt),
    ("<=", Comparison::Le),
    ("le", Comparison::Le),
    ("in", Comparison::In),
];

const PLAIN: [&str; 21] = [
    "boolean",
    "callable",
    "defined",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "integer",
    "iterable",
    "lower",
    "mapping",
    "none",
    "number",
    "odd",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

pub(super) fn is_known(name: &str) -> bool {
    PLAIN.contains(&name)
        || matches!(name, "divisibleby" | "sameas")
        || COMPARISONS.iter().any(|(other, _)| *other == name)
}

/// `value is name(...)`.
pub(super) fn test(renderer: &Renderer<'_>, name: &str, value: &Value, given: Given) -> Result<bool> {
    if let Some((_, operator)) = COMPARISONS.iter().find(|(other, _)| *other == name) {
        let [other] = given.plain(name, 1)?;
        return compare(*operator, value, &other.unwrap_or(Value::None), &renderer.budget);
    }
    match name {
        "divisibleby" => {
            let [number] = given.bind(name, ["num"], 1)?;
            let rest = binary(Binary::Mod, value, &number.unwrap_or(Value::None))?;
            return Ok(rest.equals(&Value::Int(0)));
        }
        "sameas" => {
            let [other] = given.bind(name, ["other"], 1)?;
            return Ok(is_same(value, &other.unwrap_or(Value::None)));
        }
        _ => {}
    }
    given.plain::<0>(name, 0)?;
    let rest = |of: i128| -> Result<bool> {
        Ok(binary(Binary::Mod, value, &Value::Int(2))?.equals(&Value::Int(of)))
    };
    Ok(match name {
        "boolean" => matches!(value, Value::Bool(_)),
        "callable" => match value {
            Value::Undefined(_) => true,
            Value::Object(object) => object.is_callable(),
            _ => false,
        },
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "escaped" => false,
        "even" => rest(0)?,
        "odd" => rest(1)?,
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "filter" => hashable(value).map(|()| value.as_str().is_some_and(filters::is_known))?,
        "test" => hashable(value).map(|()| value.as_str().is_some_and(is_known))?,
        "float" => matches!(value, Value::Float(_)),
        "integer" => matches!(value, Value::Int(_)),
        "iterable" => value.is_iterable(),
        "lower" => methods_text::is_cased(&to_str(value)?, false),
        "upper" => methods_text::is_cased(&to_str(value)?, true),
        "mapping" => matches!(value, Value::Dict(_)),
        "none" => matches!(value, Value::None),
        "number" => matches!(value, Value::Bool(_) | Value::Int(_) | Value::Float(_)),
        "sequence" => match value {
            Value::Str(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_) => true,
            Value::Object(object) => matches!(object.as_ref(), Object::Range { .. }),
            _ => false,
        },
        "string" => matches!(value, Value::Str(_)),
        other => return fail(format!("no test named '{other}'")),
    })
}

/// `value is other` of Python, where small values are one object.
fn is_same(value: &Value, other: &Value) -> bool {
    match (value, other) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a.text == b.text,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}
