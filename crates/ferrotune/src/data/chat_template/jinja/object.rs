//! Values that are neither plain data nor text: views, iterators, loops, macros, functions.

use super::ast::{Macro, Statement};
use super::scope::Scope;
use super::value::{Dict, Value};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// The views that a dict gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// Functions that every template has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// The variable `loop` inside a loop.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) items: Rc<Vec<Value>>,
    pub(super) index: Cell<usize>,
    pub(super) depth: usize,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
    /// The loop itself and what is around it, if it may call itself.
    pub(super) recursion: Option<(Arc<super::ast::For>, Scope)>,
}

#[derive(Debug)]
pub(super) enum Object {
    View(View, Rc<Dict>),
    Range {
        start: i128,
        stop: i128,
        step: i128,
    },
    /// An iterator: what was taken from it is gone.
    Iterator(&'static str, RefCell<VecDeque<Value>>),
    Namespace(RefCell<Dict>),
    Loop(Loop),
    Macro(Arc<Macro>, Scope),
    Method(Value, &'static str),
    Function(Function),
    Cycler {
        items: Vec<Value>,
        at: Cell<usize>,
    },
    Joiner {
        separator: Value,
        used: Cell<bool>,
    },
    Block(Arc<Vec<Statement>>, Scope),
    /// The variable `self`, whose attributes are the blocks.
    Blocks(Scope),
}

impl Object {
    pub(super) fn iterator(name: &'static str, items: Vec<Value>) -> Value {
        Value::object(Object::Iterator(name, RefCell::new(items.into())))
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Object::View(View::Keys, _) => "dict_keys",
            Object::View(View::Values, _) => "dict_values",
            Object::View(View::Items, _) => "dict_items",
            Object::Range { .. } => "range",
            Object::Iterator(name, _) => name,
            Object::Namespace(_) => "TemplateNamespace",
            Object::Loop(_) => "LoopContext",
            Object::Macro(..) => "Macro",
            Object::Method(..) => "builtin_function_or_method",
            Object::Function(_) => "function",
            Object::Cycler { .. } => "Cycler",
            Object::Joiner { .. } => "Joiner",
            Object::Block(..) => "BlockReference",
            Object::Blocks(_) => "TemplateReference",
        }
    }

    pub(super) fn len(&self) -> Option<usize> {
        match self {
            Object::View(_, dict) => Some(dict.len()),
            Object::Range { start, stop, step } => Some(range_len(*start, *stop, *step)),
            Object::Loop(context) => Some(context.items.len()),
            _ => None,
        }
    }

    pub(super) fn items(&self) -> Option<Vec<Value>> {
        match self {
            Object::View(View::Keys, dict) => Some(dict.keys().cloned().collect()),
            Object::View(View::Values, dict) => Some(dict.iter().map(|(_, value)| value.clone()).collect()),
            Object::View(View::Items, dict) => {
                Some(dict.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()])).collect())
            }
            Object::Range { start, stop, step } => {
                let count = range_len(*start, *stop, *step) as i128;
                Some((0..count).map(|i| Value::Int(start + i * step)).collect())
            }
            Object::Iterator(_, items) => Some(items.borrow_mut().drain(..).collect()),
            _ => None,
        }
    }

    pub(super) fn is_iterable(&self) -> bool {
        matches!(self, Object::View(..) | Object::Range { .. } | Object::Iterator(..) | Object::Loop(_))
    }

    pub(super) fn is_callable(&self) -> bool {
        match self {
            Object::Macro(..)
            | Object::Method(..)
            | Object::Function(_)
            | Object::Loop(_)
            | Object::Joiner { .. }
            | Object::Block(..) => true,
            Object::View(..)
            | Object::Range { .. }
            | Object::Iterator(..)
            | Object::Namespace(_)
            | Object::Cycler { .. }
            | Object::Blocks(_) => false,
        }
    }
}

/// How many numbers a range has; ranges are short, because long ones are refused.
fn range_len(start: i128, stop: i128, step: i128) -> usize {
    let span = if step > 0 { stop - start } else { start - stop };
    let step = step.abs().max(1);
    if span <= 0 { 0 } else { usize::try_from((span + step - 1) / step).unwrap_or(usize::MAX) }
}
