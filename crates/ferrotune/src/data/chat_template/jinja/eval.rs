//! Values of expressions.

use super::access;
use super::arguments::{Given, int};
use super::arithmetic::{binary, signed};
use super::ast::{Arguments, Expr};
use super::compare::{compare, weight};
use super::object::{Function, Object};
use super::render::{Output, Renderer, private};
use super::repr::to_str;
use super::runtime::{Failure, Result, fail};
use super::scope::Scope;
use super::value::{Dict, Value};
use super::{filters, methods, tests};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Longest range of the sandbox.
const MAX_RANGE: usize = 100_000;

const FUNCTIONS: [(&str, Function); 8] = [
    ("range", Function::Range),
    ("dict", Function::Dict),
    ("namespace", Function::Namespace),
    ("cycler", Function::Cycler),
    ("joiner", Function::Joiner),
    ("lipsum", Function::Lipsum),
    ("raise_exception", Function::RaiseException),
    ("strftime_now", Function::StrftimeNow),
];

impl Renderer<'_> {
    pub(super) fn variable(&self, name: &str, scope: &Scope) -> Value {
        if let Some(value) = scope.get(name) {
            return value;
        }
        if name == "self" {
            return Value::object(Object::Blocks(self.root.clone()));
        }
        match FUNCTIONS.iter().find(|(other, _)| *other == name) {
            Some((_, function)) => Value::object(Object::Function(*function)),
            None => Value::undefined(format!("'{name}' is undefined")),
        }
    }

    pub(super) fn eval(&self, expr: &Expr, scope: &Scope) -> Result<Value> {
        self.budget.steps(1)?;
        match expr {
            Expr::Const(literal) => Ok(literal.value()),
            Expr::Name(name) => Ok(self.variable(name, scope)),
            other => self.budget.nested(|| self.compound(other, scope)),
        }
    }

    fn all(&self, parts: &[Expr], scope: &Scope) -> Result<Vec<Value>> {
        parts.iter().map(|part| self.eval(part, scope)).collect()
    }

    fn compound(&self, expr: &Expr, scope: &Scope) -> Result<Value> {
        match expr {
            Expr::List(items) => Ok(Value::list(self.all(items, scope)?)),
            Expr::Tuple(items) => Ok(Value::tuple(self.all(items, scope)?)),
            Expr::Dict(entries) => {
                let mut dict = Dict::default();
                for (key, value) in entries {
                    dict.set(self.eval(key, scope)?, self.eval(value, scope)?)?;
                }
                Ok(Value::dict(dict))
            }
            Expr::Attribute(value, name) => access::attribute(&self.weighed(value, scope)?, name),
            Expr::Item(value, index) => {
                let value = self.weighed(value, scope)?;
                access::item(&value, &self.eval(index, scope)?)
            }
            Expr::Slice(value, parts) => {
                let value = self.weighed(value, scope)?;
                let part =
                    |at: usize| parts[at].as_ref().map_or(Ok(Value::None), |part| self.eval(part, scope));
                self.made(access::slice(&value, &[part(0)?, part(1)?, part(2)?])?)
            }
            Expr::Filter(value, name, arguments) => {
                let value = match value {
                    Some(value) => self.eval(value, scope)?,
                    None => return fail("a filter without a value"),
                };
                self.filter(name, value, arguments, scope)
            }
            Expr::Test(value, name, arguments) => {
                let value = self.weighed(value, scope)?;
                let given = self.given(arguments, scope)?;
                tests::test(self, name, &value, given).map(Value::Bool)
            }
            Expr::Call(..) => self.call_with(expr, None, scope),
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value, scope)?.truth())),
            Expr::Negative(value) => signed(&self.eval(value, scope)?, true),
            Expr::Positive(value) => signed(&self.eval(value, scope)?, false),
            Expr::Binary(operator, left, right) => {
                let left = self.eval(left, scope)?;
                self.made(binary(*operator, &left, &self.eval(right, scope)?)?)
            }
            Expr::Concat(parts) => self.concat(&self.all(parts, scope)?),
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first, scope)?;
                for (operator, right) in rest {
                    let right = self.eval(right, scope)?;
                    if !compare(*operator, &left, &right, &self.budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::And(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { self.eval(right, scope) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { Ok(left) } else { self.eval(right, scope) }
            }
            Expr::If(test, value, otherwise) => match (self.eval(test, scope)?.truth(), otherwise) {
                (true, _) => self.eval(value, scope),
                (false, Some(otherwise)) => self.eval(otherwise, scope),
                (false, None) => {
                    Ok(Value::undefined("the inline if has no else, and its condition is false"))
                }
            },
            simple => self.eval(simple, scope),
        }
    }

    /// The value of an expression that something is done with, which takes as long as the value is large.
    fn weighed(&self, expr: &Expr, scope: &Scope) -> Result<Value> {
        let value = self.eval(expr, scope)?;
        self.budget.steps(weight(&value))?;
        Ok(value)
    }

    /// Counts what an operation made.
    fn made(&self, value: Value) -> Result<Value> {
        match &value {
            Value::Str(text) => self.budget.bytes(text.text.len())?,
            // Every key of a dict is compared with those before it.
            Value::Dict(dict) => self.budget.steps(dict.len() * dict.len() / 64)?,
            other => self.budget.steps(weight(other))?,
        }
        Ok(value)
    }

    fn given(&self, arguments: &Arguments, scope: &Scope) -> Result<Given> {
        let mut given = Given { positional: self.all(&arguments.positional, scope)?, named: Vec::new() };
        for (name, value) in &arguments.named {
            given.named.push((Rc::from(&**name), self.eval(value, scope)?));
        }
        if let Some(star) = &arguments.star {
            given.positional.extend(self.eval(star, scope)?.items()?);
        }
        if let Some(star) = &arguments.double_star {
            let Value::Dict(dict) = self.eval(star, scope)? else {
                return fail("argument after ** must be a mapping");
            };
            for (key, value) in dict.iter() {
                let Some(name) = key.as_str() else { return fail("keywords must be strings") };
                if given.named.iter().any(|(other, _)| **other == *name) {
                    return fail(format!("got multiple values for keyword argument '{name}'"));
                }
                given.named.push((name.into(), value.clone()));
            }
        }
        Ok(given)
    }

    fn filter(&self, name: &str, value: Value, arguments: &Arguments, scope: &Scope) -> Result<Value> {
        let given = self.given(arguments, scope)?;
        self.budget.steps(weight(&value))?;
        self.made(filters::filter(self, name, value, given)?)
    }

    /// Applies the filters of a filter block to its text.
    pub(super) fn filtered(&self, expr: &Expr, text: Value, scope: &Scope) -> Result<Value> {
        match expr {
            Expr::Filter(inner, name, arguments) => {
                let value = match inner {
                    Some(inner) => self.budget.nested(|| self.filtered(inner, text, scope))?,
                    None => text,
                };
                self.filter(name, value, arguments, scope)
            }
            _ => fail("a filter block without a filter"),
        }
    }

    /// A call, with the caller that a call block gives.
    pub(super) fn call_with(&self, call: &Expr, caller: Option<Value>, scope: &Scope) -> Result<Value> {
        let Expr::Call(function, arguments) = call else { return fail("expected a call") };
        // A method is called without making an object of it.
        let bound = match function.as_ref() {
            Expr::Attribute(value, name) => {
                let value = self.weighed(value, scope)?;
                match methods::named(&value, name) {
                    Some(method) => Err((value, method)),
                    None => Ok(access::attribute(&value, name)?),
                }
            }
            other => Ok(self.eval(other, scope)?),
        };
        let mut given = self.given(arguments, scope)?;
        if let Some(caller) = caller {
            given.named.push(("caller".into(), caller));
        }
        let value = match bound {
            Ok(function) => self.call(&function, given)?,
            Err((value, method)) => methods::call(self, &value, method, given)?,
        };
        self.made(value)
    }

    pub(super) fn call(&self, function: &Value, given: Given) -> Result<Value> {
        match function {
            Value::Undefined(what) => fail(what.as_ref()),
            Value::Object(object) => match object.as_ref() {
                Object::Macro(definition, scope) => {
                    self.budget.nested(|| self.call_macro(definition, scope, given))
                }
                Object::Method(value, method) => methods::call(self, value, method, given),
                Object::Function(function) => self.function(*function, given),
                Object::Loop(context) => {
                    let [items] = given.plain("loop", 1)?;
                    let Some((definition, scope)) = &context.recursion else {
                        return fail("the loop must have the 'recursive' marker to be called recursively");
                    };
                    let mut out = Output::default();
                    let items = items.unwrap_or(Value::None);
                    self.budget
                        .nested(|| self.for_loop(definition, &items, scope, &mut out, context.depth + 1))?;
                    Ok(Value::str(out.text))
                }
                Object::Joiner { separator, used } => {
                    let first = !used.replace(true);
                    Ok(if first { Value::str("") } else { separator.clone() })
                }
                Object::Block(body, scope) => {
                    let out = self.budget.nested(|| self.body(body, &scope.inner()))?;
                    Ok(Value::str(out.text))
                }
                other => fail(format!("'{}' object is not callable", other.type_name())),
            },
            other => fail(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn function(&self, function: Function, given: Given) -> Result<Value> {
        match function {
            Function::Range => {
                let [first, second, step] = given.plain("range", 1)?;
                let step = step.map_or(Ok(1), |step| int(&step))?;
                let first = int(&first.unwrap_or(Value::None))?;
                let (start, stop) =
                    second.map_or(Ok((0, first)), |stop| int(&stop).map(|stop| (first, stop)))?;
                if step == 0 {
                    return fail("range() arg 3 must not be zero");
                }
                if [start, stop, step].iter().any(|n| n.unsigned_abs() > 1 << 62) {
                    return fail("the numbers of the range are too large");
                }
                let range = Object::Range { start, stop, step };
                match range.len() {
                    Some(count) if count > MAX_RANGE => {
                        fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).")
                    }
                    _ => Ok(Value::object(range)),
                }
            }
            Function::Dict => dict_of(given).map(Value::dict),
            Function::Namespace => {
                let fields = dict_of(given)?;
                for (key, value) in fields.iter() {
                    key.as_str().map_or(Ok(()), private)?;
                    self.stored(value)?;
                }
                Ok(Value::object(Object::Namespace(RefCell::new(fields))))
            }
            Function::Cycler => match given.positional.is_empty() || !given.named.is_empty() {
                true => fail("at least one item has to be provided"),
                false => Ok(Value::object(Object::Cycler { items: given.positional, at: Cell::new(0) })),
            },
            Function::Joiner => {
                let [separator] = given.bind("joiner", ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::str(", "));
                Ok(Value::object(Object::Joiner { separator, used: Cell::new(false) }))
            }
            Function::Lipsum => fail("lipsum() is random, so no model was trained with it"),
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"], 1)?;
                Err(Box::new(Failure::Raised(to_str(&message.unwrap_or(Value::None))?)))
            }
            Function::StrftimeNow => {
                let [format] = given.bind("strftime_now", ["format"], 1)?;
                let format = format.unwrap_or(Value::None);
                Ok(Value::str((self.strftime)(super::arguments::text(&format)?)))
            }
        }
    }
}

/// `dict(...)`.
fn dict_of(given: Given) -> Result<Dict> {
    if given.positional.len() > 1 {
        return fail("dict expected at most 1 argument");
    }
    let mut dict = Dict::default();
    for source in &given.positional {
        match source {
            Value::Dict(other) => dict = other.as_ref().clone(),
            other => {
                for pair in other.items()? {
                    let items = pair.items()?;
                    let [key, value] = items.as_slice() else {
                        return fail("dictionary update sequence element has not the length 2");
                    };
                    dict.set(key.clone(), value.clone())?;
                }
            }
        }
    }
    for (name, value) in given.named {
        dict.set(Value::str(&*name), value)?;
    }
    Ok(dict)
}
