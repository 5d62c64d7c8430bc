//! Equality, order and membership as Python has them.

use super::ast::Comparison;
use super::object::Object;
use super::runtime::{Budget, Result, fail};
use super::value::{Dict, Value};
use std::cmp::Ordering;
use std::rc::Rc;

impl Value {
    /// `==`, which never fails.
    pub(super) fn equals(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Str(a), Value::Str(b)) => a.text == b.text,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                Rc::ptr_eq(a, b) || (a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.equals(b)))
            }
            (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b) || same_entries(a, b),
            (Value::Object(a), Value::Object(b)) => same_objects(a, b),
            _ => match (self.as_int(), other.as_int(), self.as_float(), other.as_float()) {
                (Some(a), Some(b), ..) => a == b,
                (_, _, Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }
}

fn same_entries(a: &Dict, b: &Dict) -> bool {
    let same = |(key, value): &(Value, Value)| {
        b.get(key).is_ok_and(|other| other.is_some_and(|other| other.equals(value)))
    };
    a.len() == b.len() && a.iter().all(same)
}

fn same_objects(a: &Rc<Object>, b: &Rc<Object>) -> bool {
    match (a.as_ref(), b.as_ref()) {
        (Object::Range { .. }, Object::Range { .. }) => {
            let (a, b) = (a.items().unwrap_or_default(), b.items().unwrap_or_default());
            a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b))
        }
        (Object::View(kind, a), Object::View(other, b)) if kind == other => match kind {
            super::object::View::Keys => {
                a.len() == b.len() && a.keys().all(|key| matches!(b.get(key), Ok(Some(_))))
            }
            super::object::View::Items => same_entries(a, b),
            super::object::View::Values => false,
        },
        (Object::Function(a), Object::Function(b)) => a == b,
        _ => Rc::ptr_eq(a, b),
    }
}

/// The order of two values, `None` where a NaN has none.
pub(super) fn order(a: &Value, b: &Value, operator: &str) -> Result<Option<Ordering>> {
    match (a, b) {
        (Value::Undefined(what), _) | (_, Value::Undefined(what)) => fail(what.as_ref()),
        (Value::Str(a), Value::Str(b)) => Ok(Some(a.text.cmp(&b.text))),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !a.equals(b) {
                    return order(a, b, operator);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => fail(format!(
                "'{operator}' not supported between instances of '{}' and '{}'",
                a.type_name(),
                b.type_name()
            )),
        },
    }
}

pub(super) fn compare(operator: Comparison, a: &Value, b: &Value, budget: &Budget) -> Result<bool> {
    budget.steps(weight(a).min(weight(b)))?;
    Ok(match operator {
        Comparison::Eq => a.equals(b),
        Comparison::Ne => !a.equals(b),
        Comparison::Lt => order(a, b, "<")?.is_some_and(Ordering::is_lt),
        Comparison::Le => order(a, b, "<=")?.is_some_and(Ordering::is_le),
        Comparison::Gt => order(a, b, ">")?.is_some_and(Ordering::is_gt),
        Comparison::Ge => order(a, b, ">=")?.is_some_and(Ordering::is_ge),
        Comparison::In => contains(b, a, budget)?,
        Comparison::NotIn => !contains(b, a, budget)?,
    })
}

/// The steps that going through a value takes.
pub(super) fn weight(value: &Value) -> usize {
    match value {
        Value::List(items) | Value::Tuple(items) => 1 + items.len() / 8,
        Value::Dict(dict) => 1 + dict.len() / 8,
        Value::Str(text) => 1 + text.text.len() / 200,
        Value::Object(object) => 1 + object.len().unwrap_or(0) / 8,
        _ => 1,
    }
}

/// `needle in hay`.
pub(super) fn contains(hay: &Value, needle: &Value, budget: &Budget) -> Result<bool> {
    budget.steps(weight(hay))?;
    match hay {
        Value::Str(text) => match needle {
            Value::Str(part) => Ok(text.text.contains(&*part.text)),
            other => {
                fail(format!("'in <string>' requires string as left operand, not {}", other.type_name()))
            }
        },
        Value::Dict(dict) => Ok(dict.get(needle)?.is_some()),
        Value::List(items) | Value::Tuple(items) => Ok(items.iter().any(|item| item.equals(needle))),
        Value::Undefined(_) => Ok(false),
        Value::Object(object) if object.is_iterable() => {
            let items = object.items().unwrap_or_default();
            Ok(items.iter().any(|item| item.equals(needle)))
        }
        other => fail(format!("argument of type '{}' is not iterable", other.type_name())),
    }
}
