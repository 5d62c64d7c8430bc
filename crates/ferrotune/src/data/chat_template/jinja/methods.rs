//! Methods of values.

use super::arguments::{Given, count, int};
use super::methods_text;
use super::object::{Function, Object, View};
use super::render::Renderer;
use super::runtime::{Result, fail};
use super::value::{Dict, Value};
use std::rc::Rc;

const OF_STR: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const OF_LIST: [&str; 3] = ["copy", "count", "index"];
const OF_DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];

/// Methods that change a value; the sandbox gives them as undefined.
const CHANGING_LIST: [&str; 8] = ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];
const CHANGING_DICT: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];

/// The method of a value by its name.
pub(super) fn named(value: &Value, name: &str) -> Option<&'static str> {
    let names: &'static [&'static str] = match value {
        Value::Str(_) => &OF_STR,
        Value::List(_) => &OF_LIST,
        Value::Tuple(_) => &OF_LIST[1..],
        Value::Dict(_) => &OF_DICT,
        Value::Int(_) | Value::Bool(_) => &["bit_length", "conjugate"],
        Value::Float(_) => &["conjugate", "is_integer"],
        Value::Object(object) => match object.as_ref() {
            Object::Loop(_) => &["changed", "cycle"],
            Object::Cycler { .. } => &["next", "reset"],
            Object::Function(Function::Dict) => &["fromkeys"],
            Object::Range { .. } => &["count", "index"],
            _ => &[],
        },
        _ => &[],
    };
    names.iter().find(|other| **other == name).copied()
}

/// Whether a method that the sandbox refuses has this name.
pub(super) fn is_refused(value: &Value, name: &str) -> bool {
    match value {
        Value::List(_) => CHANGING_LIST.contains(&name),
        Value::Dict(_) => CHANGING_DICT.contains(&name),
        _ => false,
    }
}

/// Whether a name is an attribute rather than an item.
pub(super) fn is_attribute(value: &Value, name: &str) -> bool {
    named(value, name).is_some() || is_refused(value, name)
}

/// Calls a method.
pub(super) fn call(
    renderer: &Renderer<'_>,
    value: &Value,
    method: &'static str,
    given: Given,
) -> Result<Value> {
    match (value, method) {
        (Value::Str(text), _) => methods_text::call(text, method, given),
        (Value::Dict(dict), _) => of_dict(dict, method, given),
        (Value::List(items), "copy") => {
            given.plain::<0>(method, 0)?;
            Ok(Value::List(items.clone()))
        }
        (Value::List(items) | Value::Tuple(items), _) => of_list(items, method, given),
        (Value::Int(_) | Value::Bool(_), "bit_length") => {
            let bits = 128 - value.as_int().unwrap_or(0).unsigned_abs().leading_zeros();
            Ok(Value::Int(bits.into()))
        }
        (Value::Float(number), "is_integer") => Ok(Value::Bool(number.fract() == 0.0)),
        (Value::Int(_) | Value::Float(_), _) => Ok(value.clone()),
        (Value::Bool(b), _) => Ok(Value::Int((*b).into())),
        (Value::Object(object), _) => of_object(renderer, object, method, given),
        _ => fail(format!("'{}' object is not callable", value.type_name())),
    }
}

fn of_dict(dict: &Rc<Dict>, method: &str, given: Given) -> Result<Value> {
    match method {
        "get" => {
            let [key, default] = given.plain(method, 1)?;
            let found = dict.get(&key.unwrap_or(Value::None))?.cloned();
            return Ok(found.or(default).unwrap_or(Value::None));
        }
        "fromkeys" => return from_keys(given),
        _ => {}
    }
    given.plain::<0>(method, 0)?;
    let view = match method {
        "copy" => return Ok(Value::Dict(dict.clone())),
        "items" => View::Items,
        "keys" => View::Keys,
        _ => View::Values,
    };
    Ok(Value::object(Object::View(view, dict.clone())))
}

fn from_keys(given: Given) -> Result<Value> {
    let [keys, value] = given.plain("fromkeys", 1)?;
    let value = value.unwrap_or(Value::None);
    let mut dict = Dict::default();
    for key in keys.unwrap_or(Value::None).items()? {
        dict.set(key, value.clone())?;
    }
    Ok(Value::dict(dict))
}

fn of_list(items: &[Value], method: &str, given: Given) -> Result<Value> {
    if method == "count" {
        let [needle] = given.plain(method, 1)?;
        let needle = needle.unwrap_or(Value::None);
        return Ok(Value::size(items.iter().filter(|item| item.equals(&needle)).count()));
    }
    let [needle, start, stop] = given.plain(method, 1)?;
    let needle = needle.unwrap_or(Value::None);
    let bound = |value: Option<Value>, default: usize| -> Result<usize> {
        match value.as_ref().map(int).transpose()? {
            Some(at) if at < 0 => count(Some(&Value::Int(at + items.len() as i128)), 0),
            Some(at) => count(Some(&Value::Int(at)), 0),
            None => Ok(default),
        }
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, items.len())?);
    let found =
        items.iter().enumerate().find(|(at, item)| (start..stop).contains(at) && item.equals(&needle));
    match found {
        Some((at, _)) => Ok(Value::size(at)),
        None => fail("the value is not in the list"),
    }
}

fn of_object(renderer: &Renderer<'_>, object: &Rc<Object>, method: &str, given: Given) -> Result<Value> {
    match (object.as_ref(), method) {
        (Object::Loop(context), "cycle") => {
            let items = given.positional;
            match items.len() {
                0 => fail("no items for cycling given"),
                count => Ok(items[context.index.get() % count].clone()),
            }
        }
        (Object::Loop(context), _) => {
            renderer.stored(&Value::list(given.positional.clone()))?;
            let mut last = context.changed.borrow_mut();
            let same = last.as_ref().is_some_and(|last| {
                last.len() == given.positional.len()
                    && last.iter().zip(&given.positional).all(|(a, b)| a.equals(b))
            });
            if !same {
                *last = Some(given.positional);
            }
            Ok(Value::Bool(!same))
        }
        (Object::Cycler { items, at }, "next") => {
            let now = at.get();
            at.set((now + 1) % items.len());
            Ok(items[now].clone())
        }
        (Object::Cycler { at, .. }, _) => {
            at.set(0);
            Ok(Value::None)
        }
        (Object::Range { .. }, _) => of_list(&object.items().unwrap_or_default(), method, given),
        _ => from_keys(given),
    }
}
