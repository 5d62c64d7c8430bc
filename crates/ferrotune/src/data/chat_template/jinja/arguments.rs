//! Arguments of a call, and how they meet parameters.

use super::runtime::{Result, fail};
use super::value::Value;
use std::rc::Rc;

/// Evaluated arguments.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(Rc<str>, Value)>,
}

impl Given {
    /// The values of parameters by their names; the first `required` ones must be there.
    pub(super) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
        required: usize,
    ) -> Result<[Option<Value>; N]> {
        let mut found = [const { None }; N];
        if self.positional.len() > N {
            let count = self.positional.len();
            return fail(format!("{function}() takes at most {N} argument(s), {count} given"));
        }
        for (slot, value) in found.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().position(|other| **other == *name) {
                Some(at) if found[at].is_none() => found[at] = Some(value),
                Some(_) => return fail(format!("{function}() got multiple values for argument '{name}'")),
                None => return fail(format!("{function}() got an unexpected keyword argument '{name}'")),
            }
        }
        match (0..required).find(|at| found[*at].is_none()) {
            Some(at) => fail(format!("{function}() misses the argument '{}'", names[at])),
            None => Ok(found),
        }
    }

    /// Positional parameters only.
    pub(super) fn plain<const N: usize>(self, function: &str, required: usize) -> Result<[Option<Value>; N]> {
        match self.named.first() {
            Some(_) => fail(format!("{function}() takes no keyword arguments")),
            None => self.bind(function, [""; N], required),
        }
    }
}

/// An integer argument.
pub(super) fn int(value: &Value) -> Result<i128> {
    match (value, value.as_int()) {
        (Value::Undefined(what), _) => fail(what.as_ref()),
        (_, Some(number)) => Ok(number),
        _ => fail(format!("'{}' object cannot be interpreted as an integer", value.type_name())),
    }
}

/// A text argument.
pub(super) fn text(value: &Value) -> Result<&str> {
    match value.as_str() {
        Some(text) => Ok(text),
        None => fail(format!("expected a str, found '{}'", value.type_name())),
    }
}

/// An integer that counts something, with a default; what is below zero counts nothing.
pub(super) fn count(value: Option<&Value>, default: usize) -> Result<usize> {
    match value {
        None => Ok(default),
        Some(value) => Ok(usize::try_from(int(value)?.max(0)).unwrap_or(usize::MAX)),
    }
}
