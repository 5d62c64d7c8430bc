//! The sequences in a packed row of tokens.

use std::ops::Range;

use crate::error::{Error, Result};

/// A run of queries, and the last of the runs of keys that they may see.
///
/// In training both are the same tokens. In generation the keys are a sequence's cache, and the queries are its
/// last `q_len` tokens: query `i` sees keys `0..=k_len - q_len + i`.
///
/// A segment may go on from an earlier one: its queries also see the keys of that parent and of the parent's parents.
/// Segments are therefore trees of common beginnings; those of a tree follow each other.
///
/// Recurrent ops have no keys: they take the queries as their tokens, which go on from the state at the parent's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row of Q.
    pub q_start: usize,
    /// Number of queries.
    pub q_len: usize,
    /// First row of K and V.
    pub k_start: usize,
    /// Number of keys, at least `q_len`.
    pub k_len: usize,
    /// The segment whose last key is the one before this segment's first.
    pub parent: Option<usize>,
}

impl Segment {
    /// Tokens `start..start + len` that attend to each other.
    pub fn own(start: usize, len: usize) -> Self {
        Segment { q_start: start, q_len: len, k_start: start, k_len: len, parent: None }
    }

    /// Its queries.
    pub fn queries(&self) -> Range<usize> {
        self.q_start..self.q_start + self.q_len
    }

    /// This segment, going on from another.
    pub fn after(self, parent: Option<usize>) -> Self {
        Segment { parent, ..self }
    }
}

/// The segments of each tree: a root, and those up to the next one.
pub(super) fn trees(segments: &[Segment]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    segments.chunk_by(|_, next| next.parent.is_some()).map(move |tree| {
        start += tree.len();
        start - tree.len()..start
    })
}

/// Refuses segments that do not follow each other, that go on from one outside of their tree or that are not `good`; gives
/// the number of rows that they cover.
pub(super) fn check(
    what: &'static str,
    segments: &[Segment],
    good: impl Fn(&Segment) -> bool,
    allowed: &'static str,
) -> Result<usize> {
    let (mut next, mut tree) = (0, 0);
    for (i, s) in segments.iter().enumerate() {
        if s.parent.is_none() {
            tree = i;
        }
        let inside = s.q_start == next
            && s.q_len > 0
            && s.parent.is_none_or(|parent| (tree..i).contains(&parent))
            && good(s);
        next = s.q_start + s.q_len;
        if !inside {
            return Err(Error::Unsupported { what, found: format!("{s:?}"), allowed });
        }
    }
    Ok(next)
}
