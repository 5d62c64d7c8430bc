//! Runs the statements of a template.

use super::arguments::Given;
use super::arithmetic::joined;
use super::ast::{For, Macro, Statement, StatementKind, Target};
use super::object::{Loop, Object};
use super::repr::to_str;
use super::runtime::{Budget, Failure, Result, fail, push};
use super::scope::Scope;
use super::value::{Dict, MAX_DEPTH, Text, Value};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// Values in one value that a namespace keeps.
const MAX_STORED: usize = 100_000;

/// Text that is being written, with what generation blocks wrote of it.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) spans: Vec<Range<usize>>,
}

/// Whether a loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

/// One rendering.
pub(super) struct Renderer<'a> {
    pub(super) budget: Budget,
    pub(super) root: Scope,
    /// Writes the time in a form.
    pub(super) strftime: &'a dyn Fn(&str) -> String,
}

impl Output {
    fn write(&mut self, value: &Value) -> Result<()> {
        let start = self.text.len();
        match value {
            Value::Str(text) => {
                let moved = text.spans.iter().flat_map(|spans| spans.iter());
                self.spans.extend(moved.map(|span| span.start + start..span.end + start));
                push(&mut self.text, &text.text)
            }
            other => push(&mut self.text, &to_str(other)?),
        }
    }

    fn into_value(self) -> Value {
        let spans = (!self.spans.is_empty()).then(|| self.spans.into());
        Value::Str(Text { text: self.text.into(), spans })
    }
}

impl Renderer<'_> {
    /// Renders statements whose jumps stay inside them.
    pub(super) fn body(&self, body: &[Statement], scope: &Scope) -> Result<Output> {
        let mut out = Output::default();
        self.statements(body, scope, &mut out)?;
        self.budget.bytes(out.text.len())?;
        Ok(out)
    }

    fn statements(&self, body: &[Statement], scope: &Scope, out: &mut Output) -> Result<Flow> {
        for statement in body {
            self.budget.steps(1)?;
            let done = self.budget.nested(|| self.statement(&statement.kind, scope, out));
            let flow = done.map_err(|mut failure| {
                if let Failure::Error { line: line @ None, .. } = failure.as_mut() {
                    *line = Some(statement.line);
                }
                failure
            })?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn statement(&self, kind: &StatementKind, scope: &Scope, out: &mut Output) -> Result<Flow> {
        match kind {
            StatementKind::Text(text) => push(&mut out.text, text)?,
            StatementKind::Print(values) => {
                for value in values {
                    out.write(&self.eval(value, scope)?)?;
                }
            }
            StatementKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truth() {
                        return self.statements(body, scope, out);
                    }
                }
                return self.statements(otherwise, scope, out);
            }
            StatementKind::For(definition) => {
                let items = self.eval(&definition.iterable, scope)?;
                self.for_loop(definition, &items, scope, out, 0)?;
            }
            StatementKind::Set(target, value) => {
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StatementKind::Break => return Ok(Flow::Break),
            StatementKind::Continue => return Ok(Flow::Continue),
            StatementKind::Load => return fail("a chat template has no other templates to load"),
            other => return self.block(other, scope, out),
        }
        Ok(Flow::On)
    }

    /// Statements with a body of their own scope.
    fn block(&self, kind: &StatementKind, scope: &Scope, out: &mut Output) -> Result<Flow> {
        match kind {
            StatementKind::SetBlock(target, filter, body) => {
                let value = self.captured(body, scope)?;
                let value = match filter {
                    Some(filter) => self.filtered(filter, value, scope)?,
                    None => value,
                };
                self.assign(target, value, scope)?;
            }
            StatementKind::FilterBlock(filter, body) => {
                let value = self.captured(body, scope)?;
                out.write(&self.filtered(filter, value, scope)?)?;
            }
            StatementKind::Macro(definition) => {
                let value = Value::object(Object::Macro(definition.clone(), scope.clone()));
                scope.set(&definition.name, value);
            }
            StatementKind::CallBlock(call, definition) => {
                let caller = Value::object(Object::Macro(definition.clone(), scope.clone()));
                out.write(&self.call_with(call, Some(caller), scope)?)?;
            }
            StatementKind::With(pairs, body) => {
                let inner = scope.inner();
                for (target, value) in pairs {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                // The jumps of a loop around go on from here.
                let flow = self.statements(body, &inner, out)?;
                inner.clear();
                return Ok(flow);
            }
            StatementKind::Block(name, body) => {
                let inner = self.root.inner();
                let block = Value::object(Object::Block(body.clone(), self.root.clone()));
                self.root.set(&format!("self.{name}").into(), block);
                self.statements(body, &inner, out)?;
                inner.clear();
            }
            StatementKind::Generation(body) => {
                let inner = scope.inner();
                let start = out.text.len();
                let before = out.spans.len();
                self.statements(body, &inner, out)?;
                inner.clear();
                // A block in a block belongs to the outer one.
                out.spans.truncate(before);
                if out.text.len() > start {
                    out.spans.push(start..out.text.len());
                }
            }
            _ => {}
        }
        Ok(Flow::On)
    }

    /// What a body writes, as a value.
    fn captured(&self, body: &[Statement], scope: &Scope) -> Result<Value> {
        let inner = scope.inner();
        let out = self.body(body, &inner)?;
        inner.clear();
        Ok(out.into_value())
    }

    pub(super) fn assign(&self, target: &Target, value: Value, scope: &Scope) -> Result<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, field) => {
                let found = self.variable(name, scope);
                let Value::Object(object) = &found else {
                    return fail("cannot assign attribute on non-namespace object");
                };
                let Object::Namespace(fields) = object.as_ref() else {
                    return fail("cannot assign attribute on non-namespace object");
                };
                private(field)?;
                self.stored(&value)?;
                fields.borrow_mut().set(Value::str(field), value)?;
            }
            Target::Tuple(targets) => {
                if !value.is_iterable() {
                    return fail(format!("cannot unpack non-iterable {} object", value.type_name()));
                }
                let items = value.items()?;
                if items.len() != targets.len() {
                    let (found, expected) = (items.len(), targets.len());
                    return fail(format!("cannot unpack {found} values into {expected} variables"));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    /// Refuses what no namespace should keep: it would grow with every turn of a loop until something that walks or
    /// drops it runs out of stack.
    pub(super) fn stored(&self, value: &Value) -> Result<()> {
        fn count(value: &Value, depth: usize, seen: &mut usize) -> Result<()> {
            *seen += 1;
            if depth > MAX_DEPTH || *seen > MAX_STORED {
                return fail("the value is too large or nested too deeply to be kept in a namespace");
            }
            match value {
                Value::List(items) | Value::Tuple(items) => {
                    items.iter().try_for_each(|item| count(item, depth + 1, seen))
                }
                Value::Dict(dict) => dict.iter().try_for_each(|(_, item)| count(item, depth + 1, seen)),
                Value::Object(object) => match object.as_ref() {
                    Object::Namespace(_) => fail("a namespace cannot be kept in a namespace"),
                    Object::View(_, dict) => {
                        dict.iter().try_for_each(|(_, item)| count(item, depth + 1, seen))
                    }
                    Object::Iterator(_, items) => {
                        items.borrow().iter().try_for_each(|item| count(item, depth + 1, seen))
                    }
                    Object::Method(receiver, _) => count(receiver, depth + 1, seen),
                    Object::Cycler { items, .. } => {
                        items.iter().try_for_each(|item| count(item, depth + 1, seen))
                    }
                    _ => Ok(()),
                },
                _ => Ok(()),
            }
        }
        let mut seen = 0;
        count(value, 0, &mut seen)?;
        self.budget.steps(seen / 8)
    }

    pub(super) fn for_loop(
        &self,
        definition: &Arc<For>,
        iterable: &Value,
        scope: &Scope,
        out: &mut Output,
        depth: usize,
    ) -> Result<()> {
        let mut items = match iterable {
            Value::List(items) => items.clone(),
            other => Rc::new(other.items()?),
        };
        if let Some(test) = &definition.filter {
            let mut kept = Vec::new();
            for item in items.iter() {
                self.budget.steps(1)?;
                let inner = scope.inner();
                self.assign(&definition.target, item.clone(), &inner)?;
                if self.eval(test, &inner)?.truth() {
                    kept.push(item.clone());
                }
                inner.clear();
            }
            items = Rc::new(kept);
        }
        let recursion = definition.recursive.then(|| (definition.clone(), scope.clone()));
        let context = Rc::new(Object::Loop(Loop {
            items: items.clone(),
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
            recursion,
        }));
        let name: Arc<str> = "loop".into();
        // Jinja runs the `else` unless some turn reached the end of the body.
        let mut finished = false;
        for (at, item) in items.iter().enumerate() {
            self.budget.steps(1)?;
            let inner = scope.inner();
            if let Object::Loop(context) = context.as_ref() {
                context.index.set(at);
            }
            inner.set(&name, Value::Object(context.clone()));
            self.assign(&definition.target, item.clone(), &inner)?;
            let flow = self.statements(&definition.body, &inner, out)?;
            inner.clear();
            match flow {
                Flow::Break => break,
                Flow::Continue => {}
                Flow::On => finished = true,
            }
        }
        if !finished {
            let inner = scope.inner();
            self.statements(&definition.otherwise, &inner, out)?;
            inner.clear();
        }
        Ok(())
    }

    /// Calls a macro: its parameters are variables of a scope inside the one that it was defined in.
    pub(super) fn call_macro(
        &self,
        definition: &Arc<Macro>,
        scope: &Scope,
        mut given: Given,
    ) -> Result<Value> {
        let inner = scope.inner();
        let count = definition.parameters.len();
        let extra =
            if given.positional.len() > count { given.positional.split_off(count) } else { Vec::new() };
        let mut positional = given.positional.into_iter();
        let mut missing = Vec::new();
        for (at, name) in definition.parameters.iter().enumerate() {
            let named = || given.named.iter().position(|(other, _)| **other == **name);
            match positional.next() {
                Some(value) => inner.set(name, value),
                None => match named() {
                    Some(at) => inner.set(name, given.named.remove(at).1),
                    None => missing.push((at, name)),
                },
            }
        }
        let first_default = count - definition.defaults.len();
        for (at, name) in missing {
            let default = at.checked_sub(first_default).and_then(|at| definition.defaults.get(at));
            let value = match default {
                Some(default) => self.eval(default, &inner)?,
                None => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            inner.set(name, value);
        }
        let name = &definition.name;
        if definition.uses_caller && !definition.parameters.iter().any(|p| **p == *"caller") {
            let at = given.named.iter().position(|(other, _)| **other == *"caller");
            let caller = at.map(|at| given.named.remove(at).1);
            inner.set(&"caller".into(), caller.unwrap_or_else(|| Value::undefined("No caller defined")));
        }
        if definition.uses_kwargs {
            let mut kwargs = Dict::default();
            for (key, value) in given.named {
                kwargs.set(Value::str(&*key), value)?;
            }
            inner.set(&"kwargs".into(), Value::dict(kwargs));
        } else if let Some((key, _)) = given.named.first() {
            return fail(format!("macro '{name}' takes no keyword argument '{key}'"));
        }
        if definition.uses_varargs {
            inner.set(&"varargs".into(), Value::tuple(extra));
        } else if !extra.is_empty() {
            return fail(format!("macro '{name}' takes not more than {count} argument(s)"));
        }
        let out = self.body(&definition.body, &inner)?;
        inner.clear();
        Ok(out.into_value())
    }

    /// Texts of values one behind the other.
    pub(super) fn concat(&self, values: &[Value]) -> Result<Value> {
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            texts.push(match value {
                Value::Str(text) => text.clone(),
                other => Text { text: to_str(other)?.into(), spans: None },
            });
        }
        let joined = joined(&texts.iter().collect::<Vec<_>>())?;
        self.budget.bytes(joined.text.len())?;
        Ok(Value::Str(joined))
    }
}

/// Names of a namespace that start with `_` are refused.
pub(super) fn private(name: &str) -> Result<()> {
    match name.starts_with('_') {
        true => fail(format!("a namespace cannot hold '{name}': names starting with _ are private")),
        false => Ok(()),
    }
}
