//! Rows become packed batches: several segments in one sequence, each blind to the others but those that it goes on from,
//! with no padding.

use crate::data::packed_batch::PackedBatch;
use crate::data::prefix::Forest;
use crate::data::train_row::TrainRow;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// A part of a row, usually all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the row.
    pub row: usize,
    /// Which of its tokens.
    pub range: Range<usize>,
}

impl PackedBatch {
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

/// How rows are brought to a fixed capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackStrategy {
    /// Best fit, longest first; what exceeds the capacity is cut off.
    BestFit,
    /// As `BestFit`, but a row that exceeds the capacity becomes several pieces.
    BestFitSplit,
    /// Rows one after the other, cut wherever the capacity ends.
    Wrapped,
}

/// Distributes rows of the given lengths over packs of at most `capacity` tokens. Empty rows vanish.
pub fn plan(lengths: &[usize], capacity: usize, strategy: PackStrategy) -> Vec<Vec<Piece>> {
    let capacity = capacity.max(1);
    let cut = |row: usize, at: usize| Piece { row, range: at..lengths[row].min(at + capacity) };
    let all = 0..lengths.len();
    let pieces: Vec<Piece> = match strategy {
        PackStrategy::BestFit => all.map(|row| cut(row, 0)).filter(|piece| !piece.range.is_empty()).collect(),
        PackStrategy::BestFitSplit => {
            all.flat_map(|row| (0..lengths[row]).step_by(capacity).map(move |at| cut(row, at))).collect()
        }
        PackStrategy::Wrapped => return wrapped(lengths, capacity),
    };
    let sizes: Vec<usize> = pieces.iter().map(|piece| piece.range.len()).collect();
    let of = |pack: Vec<usize>| pack.into_iter().map(|i| pieces[i].clone()).collect();
    best_fit(&sizes, capacity).into_iter().map(of).collect()
}

/// Largest first, each into the open pack with the least space that suffices, or into a new one. Of packs with equal
/// space the one that came to it first is taken. Gives the numbers of each pack's items.
pub(super) fn best_fit(sizes: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut items: Vec<usize> = (0..sizes.len()).collect();
    items.sort_by_key(|item| std::cmp::Reverse(sizes[*item]));
    let mut packs: Vec<Vec<usize>> = Vec::new();
    let mut by_space: BTreeMap<usize, VecDeque<usize>> = BTreeMap::new();
    for item in items {
        let size = sizes[item];
        let space = by_space.range(size..).next().map(|(space, _)| *space);
        let (pack, left) =
            match space.and_then(|space| by_space.get_mut(&space)?.pop_front().map(|pack| (pack, space))) {
                Some((pack, space)) => {
                    if by_space.get(&space).is_some_and(VecDeque::is_empty) {
                        by_space.remove(&space);
                    }
                    (pack, space - size)
                }
                None => {
                    packs.push(Vec::new());
                    (packs.len() - 1, capacity - size)
                }
            };
        packs[pack].push(item);
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

/// Which rows come together in a micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// None: each is a micro-batch of its own.
    Alone,
    /// As many rows as fit, each blind to the others.
    Together,
    /// As `Together`, and rows of up to so many tokens store what they begin with in common once.
    Shared(usize),
}

impl Packing {
    /// Rows of more than `longest` tokens store all of theirs.
    pub(crate) fn shared_up_to(self, longest: usize) -> Self {
        match self {
            Packing::Shared(n) => Packing::Shared(n.min(longest)),
            other => other,
        }
    }
}

/// The micro-batches of an optimizer step whose rows are examples of `rows_per_example` rows each: whole examples, at most
/// `bound` tokens each where no single example is longer.
pub(crate) fn example_batches(
    rows: &[&TrainRow],
    rows_per_example: usize,
    bound: usize,
    packing: Packing,
) -> Vec<PackedBatch> {
    if rows_per_example <= 1 {
        return micro_batches(rows, bound, packing);
    }
    let longest = if let Packing::Shared(longest) = packing { longest } else { 0 };
    let numbers: Vec<usize> = (0..rows.len()).filter(|&row| !rows[row].is_empty()).collect();
    let examples = numbers.chunk_by(|a, b| a / rows_per_example == b / rows_per_example);
    let examples: Vec<_> = examples
        .map(|own| {
            let forest = Forest::new(own, rows, longest);
            let trees = forest.trees(usize::MAX);
            (trees.iter().map(|tree| tree.size).sum::<usize>(), forest, trees)
        })
        .collect();
    let alone = |example: &usize| packing == Packing::Alone || examples[*example].0 > bound;
    let (alone, together): (Vec<usize>, Vec<usize>) = (0..examples.len()).partition(alone);
    let sizes: Vec<usize> = together.iter().map(|&example| examples[example].0).collect();
    let packed = best_fit(&sizes, bound).into_iter();
    let packed = packed.map(|pack| pack.into_iter().map(|i| together[i]).collect::<Vec<usize>>());
    let batch = |pack: Vec<usize>| {
        let mut batch = PackedBatch::default();
        for (_, forest, trees) in pack.iter().map(|&example| &examples[example]) {
            trees.iter().for_each(|tree| forest.add(tree, &mut batch));
        }
        batch
    };
    alone.into_iter().map(|example| vec![example]).chain(packed).map(batch).collect()
}

/// The micro-batches of an optimizer step: whole rows, at most `bound` tokens each where no single row is longer, as few
/// as best fit gives.
pub fn micro_batches(rows: &[&TrainRow], bound: usize, packing: Packing) -> Vec<PackedBatch> {
    let alone = |row: &usize| packing == Packing::Alone || rows[*row].len() > bound;
    let (alone, together): (Vec<usize>, Vec<usize>) =
        (0..rows.len()).filter(|&row| !rows[row].is_empty()).partition(alone);
    let longest = if let Packing::Shared(longest) = packing { longest } else { 0 };
    let forest = Forest::new(&together, rows, longest);
    let trees = forest.trees(bound);
    let sizes: Vec<usize> = trees.iter().map(|tree| tree.size).collect();
    let mut batches = vec![PackedBatch::default(); alone.len()];
    batches
        .iter_mut()
        .zip(alone)
        .for_each(|(batch, row)| batch.push(&rows[row].input_ids, &rows[row].labels));
    batches.extend(best_fit(&sizes, bound).iter().map(|pack| {
        let mut batch = PackedBatch::default();
        pack.iter().for_each(|tree| forest.add(&trees[*tree], &mut batch));
        batch
    }));
    batches
}

/// Tokens of the micro-batches of a step, by those of its examples; as [`micro_batches`] makes them where no rows share
/// what they begin with.
pub(crate) fn micro_batch_sizes(examples: &[usize], bound: usize, packing: Packing) -> Vec<usize> {
    let alone = |size: &usize| packing == Packing::Alone || *size > bound;
    let (mut sizes, together): (Vec<usize>, Vec<usize>) = examples.iter().partition(|size| alone(size));
    let packs = best_fit(&together, bound).into_iter();
    sizes.extend(packs.map(|pack| pack.into_iter().map(|item| together[item]).sum::<usize>()));
    sizes
}
