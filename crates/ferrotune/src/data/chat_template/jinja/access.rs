//! Attributes, items and slices.

use super::methods;
use super::object::{Loop, Object};
use super::runtime::{Result, fail};
use super::value::{Value, char_count, char_range};
use std::rc::Rc;

/// `value.name`: an attribute, or else an item.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    if let Value::Undefined(what) = value {
        return fail(what.as_ref());
    }
    if let Some(found) = own_attribute(value, name) {
        return Ok(found);
    }
    if methods::is_refused(value, name) {
        return Ok(Value::undefined(format!(
            "access to attribute '{name}' of '{}' object is unsafe.",
            value.type_name()
        )));
    }
    let item = match value {
        Value::Dict(dict) => dict.field(name).cloned(),
        Value::Object(object) => match object.as_ref() {
            Object::Namespace(fields) => fields.borrow().field(name).cloned(),
            _ => None,
        },
        _ => None,
    };
    Ok(item.unwrap_or_else(|| missing(value, name)))
}

/// `value[index]`: an item, or else an attribute.
pub(super) fn item(value: &Value, index: &Value) -> Result<Value> {
    if let Value::Undefined(what) = value {
        return fail(what.as_ref());
    }
    let found = match (value, index.as_int()) {
        (Value::Dict(dict), _) => dict.get(index).ok().flatten().cloned(),
        (Value::List(items) | Value::Tuple(items), Some(at)) => nth(items, at),
        (Value::Str(text), Some(at)) => {
            let count = char_count(&text.text);
            position(at, count).map(|at| Value::str(char_range(&text.text, at..at + 1)))
        }
        (Value::Object(object), at) => match (object.as_ref(), at) {
            (Object::Range { .. }, Some(at)) => nth(&object.items().unwrap_or_default(), at),
            (Object::Namespace(fields), _) => fields.borrow().get(index).ok().flatten().cloned(),
            _ => None,
        },
        _ => None,
    };
    if let Some(found) = found {
        return Ok(found);
    }
    let named = index.as_str().and_then(|name| own_attribute(value, name));
    Ok(named.unwrap_or_else(|| missing(value, &super::repr::to_str(index).unwrap_or_default())))
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!("'{} object' has no attribute '{name}'", value.type_name()))
}

fn nth(items: &[Value], at: i128) -> Option<Value> {
    position(at, items.len()).map(|at| items[at].clone())
}

fn position(at: i128, count: usize) -> Option<usize> {
    let at = if at < 0 { at + count as i128 } else { at };
    usize::try_from(at).ok().filter(|at| *at < count)
}

/// What Python finds as an attribute, without items.
fn own_attribute(value: &Value, name: &str) -> Option<Value> {
    if let Some(method) = methods::named(value, name) {
        return Some(Value::object(Object::Method(value.clone(), method)));
    }
    match value {
        // The groups of `groupby`, the only tuples with names.
        Value::Tuple(items) if items.len() == 2 => match name {
            "grouper" => Some(items[0].clone()),
            "list" => Some(items[1].clone()),
            _ => None,
        },
        Value::Int(_) | Value::Bool(_) => match name {
            "real" | "numerator" => value.as_int().map(Value::Int),
            "imag" => Some(Value::Int(0)),
            "denominator" => Some(Value::Int(1)),
            _ => None,
        },
        Value::Float(number) => match name {
            "real" => Some(Value::Float(*number)),
            "imag" => Some(Value::Float(0.0)),
            _ => None,
        },
        Value::Object(object) => match object.as_ref() {
            Object::Loop(context) => loop_attribute(context, name),
            Object::Range { start, stop, step } => match name {
                "start" => Some(Value::Int(*start)),
                "stop" => Some(Value::Int(*stop)),
                "step" => Some(Value::Int(*step)),
                _ => None,
            },
            Object::Macro(definition, _) => match name {
                "name" => Some(Value::str(&definition.name)),
                "arguments" => Some(Value::tuple(definition.parameters.iter().map(Value::str).collect())),
                "catch_kwargs" => Some(Value::Bool(definition.uses_kwargs)),
                "catch_varargs" => Some(Value::Bool(definition.uses_varargs)),
                "caller" => Some(Value::Bool(definition.uses_caller)),
                _ => None,
            },
            Object::Cycler { items, at } => match name {
                "current" => items.get(at.get()).cloned(),
                "items" => Some(Value::tuple(items.clone())),
                "pos" => Some(Value::size(at.get())),
                _ => None,
            },
            Object::Joiner { separator, used } => match name {
                "sep" => Some(separator.clone()),
                "used" => Some(Value::Bool(used.get())),
                _ => None,
            },
            Object::Blocks(scope) => scope.get(&format!("self.{name}")),
            _ => None,
        },
        _ => None,
    }
}

fn loop_attribute(context: &Loop, name: &str) -> Option<Value> {
    let (at, count) = (context.index.get(), context.items.len());
    let neighbour = |at: Option<usize>, what: &str| {
        let found = at.and_then(|at| context.items.get(at)).cloned();
        Some(found.unwrap_or_else(|| Value::undefined(format!("there is no {what} item"))))
    };
    match name {
        "index" => Some(Value::size(at + 1)),
        "index0" => Some(Value::size(at)),
        "revindex" => Some(Value::size(count - at)),
        "revindex0" => Some(Value::size(count - at - 1)),
        "first" => Some(Value::Bool(at == 0)),
        "last" => Some(Value::Bool(at + 1 == count)),
        "length" => Some(Value::size(count)),
        "depth" => Some(Value::size(context.depth + 1)),
        "depth0" => Some(Value::size(context.depth)),
        "previtem" => neighbour(at.checked_sub(1), "previous"),
        "nextitem" => neighbour(Some(at + 1), "next"),
        _ => None,
    }
}

/// `value[start:stop:step]`.
pub(super) fn slice(value: &Value, parts: &[Value; 3]) -> Result<Value> {
    let count = match value {
        Value::Str(text) => char_count(&text.text),
        Value::List(items) | Value::Tuple(items) => items.len(),
        Value::Object(object) if matches!(object.as_ref(), Object::Range { .. }) => object.len().unwrap_or(0),
        Value::Undefined(what) => return fail(what.as_ref()),
        other => return fail(format!("'{}' object cannot be sliced", other.type_name())),
    };
    let part = |value: &Value| match (value, value.as_int()) {
        (Value::None, _) => Ok(None),
        (_, Some(number)) => Ok(Some(number)),
        _ => fail("slice indices must be integers or None or have an __index__ method"),
    };
    let (start, stop, step) = (part(&parts[0])?, part(&parts[1])?, part(&parts[2])?);
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail("slice step cannot be zero");
    }
    let length = count as i128;
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |at: Option<i128>, default: i128| match at {
        None => default,
        Some(at) if at < 0 => at.saturating_add(length).clamp(low, high),
        Some(at) => at.clamp(low, high),
    };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    let (start, stop) = (bound(start, first), bound(stop, last));
    let mut indexes = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        indexes.extend(usize::try_from(at));
        at = at.saturating_add(step);
    }
    Ok(match value {
        Value::Str(text) if step == 1 => {
            let from = indexes.first().copied().unwrap_or(0);
            Value::str(char_range(&text.text, from..from + indexes.len()))
        }
        Value::Str(text) => {
            let letters: Vec<char> = text.text.chars().collect();
            Value::str(indexes.iter().map(|&at| letters[at]).collect::<String>())
        }
        Value::List(items) => Value::list(indexes.iter().map(|&at| items[at].clone()).collect()),
        Value::Tuple(items) => Value::tuple(indexes.iter().map(|&at| items[at].clone()).collect()),
        Value::Object(object) => match object.as_ref() {
            Object::Range { start: first, step: by, .. } => {
                let at = |index: i128| first + index * by;
                let range = Object::Range { start: at(start), stop: at(stop), step: by * step };
                Value::Object(Rc::new(range))
            }
            _ => Value::None,
        },
        _ => Value::None,
    })
}
