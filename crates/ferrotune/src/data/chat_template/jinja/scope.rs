//! The variables that a part of a template sees.

use super::value::Value;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Variables of a block, with those around it. A macro keeps the scope that it was defined in.
#[derive(Clone)]
pub(super) struct Scope(Rc<Variables>);

struct Variables {
    own: RefCell<Vec<(Arc<str>, Value)>>,
    outer: Option<Scope>,
}

impl std::fmt::Debug for Scope {
    /// Without the variables: a macro among them would lead back here.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Scope")
    }
}

impl Scope {
    pub(super) fn root() -> Self {
        Scope(Rc::new(Variables { own: RefCell::new(Vec::new()), outer: None }))
    }

    pub(super) fn inner(&self) -> Self {
        Scope(Rc::new(Variables { own: RefCell::new(Vec::new()), outer: Some(self.clone()) }))
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = self;
        loop {
            let own = scope.0.own.borrow();
            if let Some((_, value)) = own.iter().find(|(other, _)| **other == *name) {
                return Some(value.clone());
            }
            drop(own);
            scope = scope.0.outer.as_ref()?;
        }
    }

    pub(super) fn set(&self, name: &Arc<str>, value: Value) {
        let mut own = self.0.own.borrow_mut();
        match own.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => own.push((name.clone(), value)),
        }
    }

    /// Forgets the variables of a scope that is left, so that macros among them do not keep it alive.
    pub(super) fn clear(&self) {
        let own = std::mem::take(&mut *self.0.own.borrow_mut());
        drop(own);
    }
}
