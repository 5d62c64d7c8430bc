//! What a rendering may use up, and how it fails.

use std::cell::Cell;

/// Steps that a rendering may take. A chat of a hundred messages takes some thousand.
const FUEL: u64 = 10_000_000;

/// Bytes of one piece of text, and of all texts that a rendering makes.
pub(super) const MAX_TEXT: usize = 64 << 20;
const MAX_BYTES: u64 = 1 << 30;

/// Items of one list that a template makes.
pub(super) const MAX_ITEMS: usize = 1_000_000;

/// Statements, expressions and calls inside one another.
const MAX_NESTING: u32 = 400;

/// Why a rendering stopped.
#[derive(Debug)]
pub(in super::super) enum Failure {
    /// The template's own message, of `raise_exception`.
    Raised(String),
    /// Anything else, with the line of the statement.
    Error { line: Option<u32>, problem: String },
}

pub(super) type Result<T> = std::result::Result<T, Box<Failure>>;

/// An error whose line the statement around it adds.
pub(super) fn fail<T>(problem: impl Into<String>) -> Result<T> {
    Err(Box::new(Failure::Error { line: None, problem: problem.into() }))
}

/// Counts what a rendering uses.
#[derive(Debug)]
pub(super) struct Budget {
    fuel: Cell<u64>,
    bytes: Cell<u64>,
    nesting: Cell<u32>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Budget { fuel: Cell::new(FUEL), bytes: Cell::new(MAX_BYTES), nesting: Cell::new(0) }
    }

    pub(super) fn steps(&self, count: usize) -> Result<()> {
        take(&self.fuel, count as u64, "the template takes too many steps")
    }

    pub(super) fn bytes(&self, count: usize) -> Result<()> {
        take(&self.bytes, count as u64, "the template writes too much text")
    }

    /// Runs something one level deeper.
    pub(super) fn nested<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let level = self.nesting.get();
        if level >= MAX_NESTING {
            return fail("the template nests too deeply");
        }
        self.nesting.set(level + 1);
        let done = run();
        self.nesting.set(level);
        done
    }
}

fn take(left: &Cell<u64>, count: u64, problem: &str) -> Result<()> {
    match left.get().checked_sub(count) {
        Some(rest) => {
            left.set(rest);
            Ok(())
        }
        None => fail(problem),
    }
}

/// Adds text unless the whole becomes too long.
pub(super) fn push(out: &mut String, text: &str) -> Result<()> {
    if out.len() + text.len() > MAX_TEXT {
        return fail("the text becomes too long");
    }
    out.push_str(text);
    Ok(())
}
