//! A micro-batch: rows one after the other in one sequence of tokens.

use ferrotune_kernels::ops::attention::Segment;
use std::ops::Range;

use super::train_row::IGNORE;

/// The target of a position that predicts nothing.
pub const NO_TARGET: i32 = -1;

/// A micro-batch: the tokens of its segments one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[T]`.
    pub tokens: Vec<u32>,
    /// The token that each position predicts, shifted already; [`NO_TARGET`] where it is not supervised, and at the end
    /// of each row.
    pub targets: Vec<i32>,
    /// How many rows each position is in.
    pub weights: Vec<u32>,
    /// Positions in their rows.
    pub positions: Vec<u32>,
    /// The segments in order; together they cover all tokens. One may go on after the last token of an earlier one, its
    /// parent, as others may too.
    pub segments: Vec<Segment>,
    /// Tokens of its rows; more than are stored where rows share some.
    pub row_tokens: usize,
    /// Labels of its rows that are supervised before they are shifted: targets, and first tokens that are labels too.
    pub labels: usize,
}

/// What position `at` of a row with these labels predicts.
pub(super) fn target(labels: &[i32], at: usize) -> i32 {
    labels.get(at + 1).copied().filter(|&label| label != IGNORE).unwrap_or(NO_TARGET)
}

impl PackedBatch {
    /// Number of tokens that are stored.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of targets, each counted for every row that it is in.
    pub fn label_tokens(&self) -> usize {
        let supervised = self.targets.iter().zip(&self.weights).filter(|(target, _)| **target != NO_TARGET);
        supervised.map(|(_, weight)| *weight as usize).sum()
    }

    /// Adds a row as a segment of its own. Nothing predicts its first token.
    pub fn push(&mut self, tokens: &[u32], labels: &[i32]) {
        if !tokens.is_empty() {
            self.count(labels);
            self.segment((tokens, labels), 0..tokens.len(), 1, None);
        }
    }

    /// Counts a row's tokens and labels.
    pub(super) fn count(&mut self, labels: &[i32]) {
        self.row_tokens += labels.len();
        self.labels += labels.iter().filter(|&&label| label != IGNORE).count();
    }

    /// Adds a part of a row that stands for `weight` rows; gives the segment's number.
    pub(super) fn segment(
        &mut self,
        (tokens, labels): (&[u32], &[i32]),
        part: Range<usize>,
        weight: u32,
        parent: Option<usize>,
    ) -> usize {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(&tokens[part.clone()]);
        self.targets.extend(part.clone().map(|at| target(labels, at)));
        self.weights.extend(part.clone().map(|_| weight));
        self.positions.extend(part.start as u32..part.end as u32);
        self.segments.push(Segment::own(start, part.len()).after(parent));
        self.segments.len() - 1
    }
}
