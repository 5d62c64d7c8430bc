//! What rows begin with in common, to be stored and computed once.
//!
//! Two rows have a position in common if its token and what it predicts are equal, and so is everything before it. Rows
//! are sorted by their positions, so that a tree of common beginnings is a range of rows, and what a row shares with those
//! before it is what it shares with its neighbour.

use super::packed_batch::{PackedBatch, target};
use super::train_row::TrainRow;
use std::cmp::Ordering;
use std::ops::Range;

/// Fewer positions than this are stored for each row: a run of its own costs attention a tile.
const SHORTEST: usize = 16;

/// Rows in the order of their positions.
pub(super) struct Forest<'a> {
    rows: Vec<(usize, &'a TrainRow)>,
    /// How many positions each row stores together with the row before it.
    shared: Vec<usize>,
}

/// A range of sorted rows that go into one micro-batch.
pub(super) struct Tree {
    rows: Range<usize>,
    /// Positions that it stores.
    pub(super) size: usize,
}

impl<'a> Forest<'a> {
    /// The trees of the numbered rows. Those of more than `longest` tokens share nothing.
    pub(super) fn new(numbers: &[usize], rows: &[&'a TrainRow], longest: usize) -> Self {
        let mut rows: Vec<(usize, &TrainRow)> = numbers.iter().map(|n| (*n, rows[*n])).collect();
        let shares = |row: &TrainRow| row.len() <= longest;
        rows.sort_by(|(_, a), (_, b)| match (shares(a), shares(b)) {
            (true, true) => positions(a).cmp(positions(b)),
            (false, false) => Ordering::Equal,
            (a, b) => b.cmp(&a),
        });
        let mut shared = vec![0; rows.len()];
        for (i, two) in rows.windows(2).enumerate().filter(|(_, two)| shares(two[1].1)) {
            shared[i + 1] = positions(two[0].1).zip(positions(two[1].1)).take_while(|(a, b)| a == b).count();
        }
        drop_short_runs(&mut shared);
        Forest { rows, shared }
    }

    /// The rows as trees of at most `bound` positions, as few as can be, in the order of their first rows. A tree that is
    /// larger becomes several, each with what it needs of the common beginning.
    pub(super) fn trees(&self, bound: usize) -> Vec<Tree> {
        let mut trees: Vec<Tree> = Vec::new();
        for (i, (_, row)) in self.rows.iter().enumerate() {
            let own = row.len() - self.shared[i];
            match trees.last_mut().filter(|tree| self.shared[i] > 0 && tree.size + own <= bound) {
                Some(tree) => {
                    tree.rows.end = i + 1;
                    tree.size += own;
                }
                None => trees.push(Tree { rows: i..i + 1, size: row.len() }),
            }
        }
        trees.sort_by_key(|tree| self.rows[tree.rows.clone()].iter().map(|(number, _)| *number).min());
        trees
    }

    /// Adds a tree to a batch: a segment's children follow it, each with its own.
    pub(super) fn add(&self, tree: &Tree, batch: &mut PackedBatch) {
        for (_, row) in &self.rows[tree.rows.clone()] {
            batch.count(&row.labels);
        }
        let mut todo = vec![(tree.rows.clone(), 0, None)];
        while let Some((rows, from, parent)) = todo.pop() {
            let first = self.rows[rows.start].1;
            let later = rows.start + 1..rows.end;
            let to = self.shared[later.clone()].iter().copied().min().unwrap_or(first.len());
            let parent = match to > from {
                true => Some(batch.segment(
                    (&first.input_ids, &first.labels),
                    from..to,
                    rows.len() as u32,
                    parent,
                )),
                // The row ends where its parent does.
                false => parent,
            };
            if rows.len() > 1 {
                let mut end = rows.end;
                for i in later.rev().filter(|i| self.shared[*i] == to) {
                    todo.push((i..end, to, parent));
                    end = i;
                }
                todo.push((rows.start..end, to, parent));
            }
        }
    }
}

/// The positions of a row: tokens and what they predict.
fn positions(row: &TrainRow) -> impl Iterator<Item = (u32, i32)> {
    row.input_ids.iter().enumerate().map(|(at, token)| (*token, target(&row.labels, at)))
}

/// Where rows part after a run that is too short, they part before it.
fn drop_short_runs(shared: &mut [usize]) {
    let mut todo = vec![(0..shared.len(), 0)];
    while let Some((rows, base)) = todo.pop() {
        let later = rows.start + 1..rows.end;
        let Some(least) = shared.get(later.clone()).and_then(|s| s.iter().copied().min()) else { continue };
        let kept = if least >= base + SHORTEST { least } else { base };
        let mut start = rows.start;
        for i in later {
            if shared[i] == least {
                shared[i] = kept;
                todo.push((start..i, kept));
                start = i;
            }
        }
        todo.push((start..rows.end, kept));
    }
}
