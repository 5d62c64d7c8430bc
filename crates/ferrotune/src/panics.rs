//! Panics of a library that reads a damaged file, as errors.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; a panic in it becomes the error, in its own words. What `f` changes must not be used after one.
pub(crate) fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let before = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    CAUGHT.set(before);
    result.map_err(|payload| words(payload.as_ref()))
}

/// Whether a panic on this thread becomes an error, so that a program's panic hook need not print it.
#[must_use]
pub fn are_caught() -> bool {
    CAUGHT.get()
}

fn words(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it gives no reason").to_string()
}
