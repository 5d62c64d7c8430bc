//! The syntax-tree check of the Berkeley Function Calling Leaderboard for Python functions (`bfcl_eval`,
//! `eval_checker/ast_eval/ast_checker.py`; Apache-2.0), written anew from what it does.
//!
//! A call is right if it names the function, has every required argument, none that is unknown, and for each one a value
//! of its type that is among the allowed ones. `""` among them says that the argument may be left out. Where an allowed
//! value has another type than the function declares, values of that type are taken as well (a variable, in the package's
//! words). Types and equality are Python's: `5` is no float but equals `5.0`, `True` equals `1`.

use serde_json::{Map, Value};

/// A call of a function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    /// Name of the function.
    pub(super) name: String,
    /// Its arguments.
    pub(super) arguments: Map<String, Value>,
}

/// Why an answer is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// No call can be read from it.
    Unreadable,
    /// More or fewer calls than expected.
    Count,
    /// Another function.
    Name,
    /// A required argument is missing.
    MissingRequired,
    /// An argument that the function does not have, or that should have been left out.
    Unexpected,
    /// A value of another type.
    Type,
    /// A value that is not allowed.
    Value,
    /// An argument is missing that may not be left out here.
    MissingOptional,
    /// The question says nothing to hold the value against; the package stops with an exception.
    Undecided,
}

impl Fault {
    /// The fault in a few words.
    pub(super) fn words(self) -> &'static str {
        match self {
            Fault::Unreadable => "no call can be read",
            Fault::Count => "another number of calls",
            Fault::Name => "another function",
            Fault::MissingRequired => "a required argument is missing",
            Fault::Unexpected => "an unexpected argument",
            Fault::Type => "a value of another type",
            Fault::Value => "another value",
            Fault::MissingOptional => "an argument is missing",
            Fault::Undecided => "the question does not decide it",
        }
    }
}

/// What the check says.
pub(super) type Verdict = Result<(), Fault>;

/// How calls are compared with the expected ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// One function, one call.
    Simple,
    /// Several functions, one call.
    Multiple,
    /// Several calls, in any order.
    Parallel,
}

impl Mode {
    /// The mode of a category such as `live_multiple`.
    pub(super) fn of(category: &str) -> Self {
        match category {
            c if c.contains("parallel") => Mode::Parallel,
            c if c.contains("multiple") => Mode::Multiple,
            _ => Mode::Simple,
        }
    }
}

/// Checks calls against the functions of a question and its possible answers (`[{name: {argument: [allowed]}}]`).
pub(super) fn check(mode: Mode, functions: &[Value], possible: &[Value], calls: &[Call]) -> Verdict {
    let expected = match mode {
        Mode::Simple => 1,
        Mode::Multiple | Mode::Parallel => possible.len(),
    };
    if calls.len() != expected {
        return Err(Fault::Count);
    }
    if mode == Mode::Simple {
        let (function, possible) = functions.first().zip(possible.first()).ok_or(Fault::Undecided)?;
        return one(function, possible, &calls[0]);
    }
    let described = |possible: &Value| {
        let (name, _) = only(possible)?;
        functions.iter().find(|f| f["name"] == **name).ok_or(Fault::Undecided)
    };
    if mode == Mode::Multiple {
        let possible = possible.first().ok_or(Fault::Undecided)?;
        return one(described(possible)?, possible, &calls[0]);
    }
    let mut left: Vec<&Call> = calls.iter().collect();
    for possible in possible {
        let function = described(possible)?;
        let mut found = Err(Fault::Count);
        for (at, call) in left.iter().enumerate() {
            found = one(function, possible, call);
            match found {
                Ok(()) => {
                    left.remove(at);
                    break;
                }
                // An exception ends the package's search.
                Err(Fault::Undecided) => return found,
                Err(_) => {}
            }
        }
        found?;
    }
    Ok(())
}

/// The only entry of an object, or its first.
pub(super) fn only(possible: &Value) -> Result<(&String, &Value), Fault> {
    possible.as_object().and_then(|object| object.iter().next()).ok_or(Fault::Undecided)
}

/// A call against one function and the values that are allowed.
fn one(function: &Value, possible: &Value, call: &Call) -> Verdict {
    let allowed = only(possible)?.1.as_object().ok_or(Fault::Undecided)?;
    let parameters = &function["parameters"];
    let known = parameters["properties"].as_object().ok_or(Fault::Undecided)?;
    let required = parameters["required"].as_array().ok_or(Fault::Undecided)?;
    if function["name"] != *call.name {
        return Err(Fault::Name);
    }
    let is_given = |name: &Value| name.as_str().is_some_and(|name| call.arguments.contains_key(name));
    if !required.iter().all(is_given) {
        return Err(Fault::MissingRequired);
    }
    for (name, value) in &call.arguments {
        let (declared, allowed) = known.get(name).zip(allowed.get(name)).ok_or(Fault::Unexpected)?;
        argument(declared, value, allowed.as_array().ok_or(Fault::Undecided)?)?;
    }
    let may_miss =
        |(name, allowed): (&String, &Value)| call.arguments.contains_key(name) || is_optional(allowed);
    if allowed.iter().all(may_miss) { Ok(()) } else { Err(Fault::MissingOptional) }
}

fn is_optional(allowed: &Value) -> bool {
    allowed.as_array().is_some_and(|allowed| allowed.iter().any(|value| value == ""))
}

/// Python's types of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Bool,
    Int,
    Float,
    Str,
    List,
    Dict,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Kind::None,
            Value::Bool(_) => Kind::Bool,
            Value::Number(n) if n.is_f64() => Kind::Float,
            Value::Number(_) => Kind::Int,
            Value::String(_) => Kind::Str,
            Value::Array(_) => Kind::List,
            Value::Object(_) => Kind::Dict,
        }
    }

    /// The type that a function declares.
    fn declared(word: &Value) -> Result<Self, Fault> {
        Ok(match word.as_str() {
            Some("string" | "any") => Kind::Str,
            Some("integer") => Kind::Int,
            Some("float") => Kind::Float,
            Some("boolean") => Kind::Bool,
            Some("array" | "tuple") => Kind::List,
            Some("dict") => Kind::Dict,
            _ => return Err(Fault::Undecided),
        })
    }
}

/// A value of an argument: its type, then whether it is allowed.
fn argument(declared: &Value, value: &Value, allowed: &[Value]) -> Verdict {
    let kind = Kind::declared(&declared["type"])?;
    let items = match kind {
        Kind::List => Some(Kind::declared(&declared["items"]["type"])?),
        _ => None,
    };
    let float =
        value.as_f64().filter(|_| kind == Kind::Float && Kind::of(value) == Kind::Int).map(Value::from);
    let value = float.as_ref().unwrap_or(value);
    let is_variable = typed(value, allowed, kind, items)?;
    let is_allowed = match (kind, value) {
        (Kind::Dict, Value::Object(value)) if !is_variable => dict(value, allowed)?,
        (Kind::List, Value::Array(value)) if !is_variable && items == Some(Kind::Dict) => {
            dicts(value, allowed)?
        }
        (Kind::List, Value::Array(value)) if !is_variable => list(value, allowed)?,
        (Kind::Str, Value::String(value)) if !is_variable => {
            let value = standard(value);
            allowed.iter().filter_map(Value::as_str).any(|allowed| standard(allowed) == value)
        }
        _ => holds(allowed, value),
    };
    if is_allowed { Ok(()) } else { Err(Fault::Value) }
}

/// Whether a value of the right type stands for a variable; an error if its type is wrong.
fn typed(value: &Value, allowed: &[Value], kind: Kind, items: Option<Kind>) -> Result<bool, Fault> {
    let usual = allowed.iter().find(|allowed| **allowed != "").map(Kind::of);
    if Kind::of(value) != kind {
        return if usual == Some(Kind::of(value)) { Ok(true) } else { Err(Fault::Type) };
    }
    if let (Some(items), Value::Array(values)) = (items, value) {
        let fits = |allowed: &Value| match allowed {
            Value::Array(allowed) => values.iter().all(|value| typed(value, allowed, items, None).is_ok()),
            _ => true,
        };
        if !allowed.iter().any(fits) {
            return Err(Fault::Type);
        }
    }
    Ok(usual.is_some_and(|usual| usual != kind))
}

/// Whether an object has for each key one of the values that an allowed object lists for it.
fn dict(value: &Map<String, Value>, allowed: &[Value]) -> Result<bool, Fault> {
    for possible in allowed.iter().filter(|possible| **possible != "") {
        let possible = possible.as_object().ok_or(Fault::Undecided)?;
        let mut fits = true;
        for (key, value) in value {
            let Some(listed) = possible.get(key) else {
                fits = false;
                break;
            };
            let listed: Vec<Value> =
                listed.as_array().ok_or(Fault::Undecided)?.iter().map(standard_value).collect();
            if !holds(&listed, &standard_value(value)) {
                fits = false;
                break;
            }
        }
        fits &= possible.iter().all(|(key, listed)| value.contains_key(key) || is_optional(listed));
        if fits {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same for a list of objects, one by one.
fn dicts(values: &[Value], allowed: &[Value]) -> Result<bool, Fault> {
    for possible in allowed {
        let possible: &[Value] = match possible {
            Value::Array(possible) => possible,
            // An empty list is taken for one that was left out.
            Value::String(text) if text.is_empty() => &[],
            _ => return Err(Fault::Undecided),
        };
        if possible.len() != values.len() {
            continue;
        }
        let mut fits = true;
        for (value, possible) in values.iter().zip(possible) {
            let value = value.as_object().ok_or(Fault::Undecided)?;
            if !dict(value, std::slice::from_ref(possible))? {
                fits = false;
                break;
            }
        }
        if fits {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a list is an allowed one.
fn list(values: &[Value], allowed: &[Value]) -> Result<bool, Fault> {
    let standard = |values: &[Value]| Value::Array(values.iter().map(standard_value).collect());
    let lists = |possible: &Value| match possible {
        Value::Array(possible) => Ok(standard(possible)),
        // Python takes a text for the list of its characters.
        Value::String(text) => {
            Ok(text.chars().map(|c| standard_value(&Value::from(c.to_string()))).collect())
        }
        _ => Err(Fault::Undecided),
    };
    let allowed = allowed.iter().map(lists).collect::<Result<Vec<Value>, Fault>>()?;
    Ok(holds(&allowed, &standard(values)))
}

/// A text without the marks in which answers may differ.
fn standard(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !" ,./-_*^".contains(*c)).collect();
    kept.to_lowercase().replace('\'', "\"")
}

fn standard_value(value: &Value) -> Value {
    value.as_str().map_or_else(|| value.clone(), |text| Value::from(standard(text)))
}

fn holds(allowed: &[Value], value: &Value) -> bool {
    allowed.iter().any(|allowed| equal(allowed, value))
}

/// Python's `==`.
fn equal(a: &Value, b: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        _ => value.as_f64(),
    };
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if !a.is_f64() && !b.is_f64() => a == b,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => match (number(a), number(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}
