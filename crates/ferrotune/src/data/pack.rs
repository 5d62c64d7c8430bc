//! Rows become packed batches: several segments in one sequence, each blind to the others, with no padding.

use crate::data::tokenize::{IGNORE, TrainRow};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// The target of a position that predicts nothing.
pub const NO_TARGET: i32 = -1;

/// A micro-batch: the tokens of its segments one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, `[T]`.
    pub tokens: Vec<u32>,
    /// The token that each position predicts, shifted already; [`NO_TARGET`] where it is not supervised, and at the end
    /// of each segment.
    pub targets: Vec<i32>,
    /// Positions, from 0 in each segment.
    pub positions: Vec<u32>,
    /// The segments in order; together they cover all tokens.
    pub segments: Vec<Range<usize>>,
    /// Labels that are supervised before they are shifted: targets, and first tokens that are labels too.
    pub labels: usize,
}

impl PackedBatch {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Number of positions with a target.
    pub fn label_tokens(&self) -> usize {
        self.targets.iter().filter(|&&target| target != NO_TARGET).count()
    }

    /// Adds a segment. Nothing predicts its first token.
    pub fn push(&mut self, tokens: &[u32], labels: &[i32]) {
        if tokens.is_empty() {
            return;
        }
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.targets.extend(labels[1..].iter().map(|&label| if label == IGNORE { NO_TARGET } else { label }));
        self.targets.push(NO_TARGET);
        self.positions.extend(0..tokens.len() as u32);
        self.labels += labels.iter().filter(|&&label| label != IGNORE).count();
        self.segments.push(start..self.tokens.len());
    }

    /// A batch of pieces of rows, each piece a segment.
    pub fn from_pieces(rows: &[&TrainRow], pieces: &[Piece]) -> Self {
        let mut batch = PackedBatch::default();
        for Piece { row, range } in pieces {
            let row = rows[*row];
            batch.push(&row.input_ids[range.clone()], &row.labels[range.clone()]);
        }
        batch
    }
}

/// A part of a row, usually all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the row.
    pub row: usize,
    /// Which of its tokens.
    pub range: Range<usize>,
}

/// How rows are brought to a fixed capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackStrategy {
    /// Best fit, longest first; what exceeds the capacity is cut off.
    BestFit,
    /// The same, but a row that exceeds the capacity becomes several pieces.
    BestFitSplit,
    /// Rows one after the other, cut wherever the capacity ends.
    Wrapped,
}

/// Distributes rows of the given lengths over packs of at most `capacity` tokens. Empty rows vanish.
pub fn plan(lengths: &[usize], capacity: usize, strategy: PackStrategy) -> Vec<Vec<Piece>> {
    let capacity = capacity.max(1);
    match strategy {
        PackStrategy::BestFit => {
            let piece = |(row, &length): (usize, &usize)| Piece { row, range: 0..length.min(capacity) };
            best_fit(lengths.iter().enumerate().map(piece).collect(), capacity)
        }
        PackStrategy::BestFitSplit => {
            let mut pieces = Vec::new();
            for (row, &length) in lengths.iter().enumerate() {
                pieces.extend(
                    (0..length)
                        .step_by(capacity)
                        .map(|at| Piece { row, range: at..(at + capacity).min(length) }),
                );
            }
            best_fit(pieces, capacity)
        }
        PackStrategy::Wrapped => wrapped(lengths, capacity),
    }
}

/// Longest first, each into the open pack with the least space that suffices, or into a new one. Of packs with equal
/// space the one that came to it first is taken.
fn best_fit(mut pieces: Vec<Piece>, capacity: usize) -> Vec<Vec<Piece>> {
    pieces.retain(|piece| !piece.range.is_empty());
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.range.len()));
    let mut packs: Vec<Vec<Piece>> = Vec::new();
    let mut by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let length = piece.range.len();
        let space = by_space.range(length..).next().map(|(space, _)| *space);
        let (pack, left) =
            match space.and_then(|space| by_space.get_mut(&space)?.pop_front().map(|pack| (pack, space))) {
                Some((pack, space)) => {
                    if by_space.get(&space).is_some_and(VecDeque::is_empty) {
                        by_space.remove(&space);
                    }
                    (pack, space - length)
                }
                None => {
                    packs.push(Vec::new());
                    (packs.len() - 1, capacity - length)
                }
            };
        packs[pack].push(piece);
        by_space.entry(left).or_default().push_back(pack);
    }
    packs
}

fn wrapped(lengths: &[usize], capacity: usize) -> Vec<Vec<Piece>> {
    let mut packs: Vec<Vec<Piece>> = Vec::new();
    let mut space = 0;
    for (row, &length) in lengths.iter().enumerate() {
        let mut at = 0;
        while at < length {
            if space == 0 {
                packs.push(Vec::new());
                space = capacity;
            }
            let end = length.min(at + space);
            if let Some(pack) = packs.last_mut() {
                pack.push(Piece { row, range: at..end });
            }
            space -= end - at;
            at = end;
        }
    }
    packs
}

/// The micro-batches of an optimizer step: whole rows, at most `bound` tokens each where no single row is longer, as few
/// as best fit gives. Without `packing` each row is a micro-batch of its own.
pub fn micro_batches(rows: &[&TrainRow], bound: usize, packing: bool) -> Vec<PackedBatch> {
    let whole = |row: usize| Piece { row, range: 0..rows[row].len() };
    let alone = |row: &usize| !packing || rows[*row].len() > bound;
    let (alone, shared): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).filter(|&row| !rows[row].is_empty()).partition(alone);
    let mut packs: Vec<Vec<Piece>> = alone.into_iter().map(|row| vec![whole(row)]).collect();
    packs.extend(best_fit(shared.into_iter().map(whole).collect(), bound));
    packs.iter().map(|pack| PackedBatch::from_pieces(rows, pack)).collect()
}
