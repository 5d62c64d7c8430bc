//! The order of an epoch and its steps, from the lengths of the rows alone.
//!
//! Rows of one chat stay together, because what they begin with in common is then computed once. Where steps are a number
//! of tokens and rows are shuffled, the rows of a window are dealt out over as few steps as can hold them: the longest one
//! first, each to the step that has the most room. All steps of a window are then nearly equally full, and each has long
//! and short rows. (Best fit, the usual way to fill packs, is used where that gives fewer steps; it puts rows of like
//! lengths together.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use super::loader::{BatchSize, LoaderOptions};
use super::pack::{best_fit, micro_batch_sizes};
use super::random::permutation;
use super::token_rows::TokenRows;

/// Keeps the numbers of the order apart from those of the held-out split.
const ORDER: u64 = 0x006f_7264_6572;

/// Keeps the order of a window's steps apart from that of the rows.
const STEPS: u64 = 0x0073_7465_7073;

/// Rows that are dealt out together.
const WINDOW: usize = 1 << 16;

/// The order of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Order {
    rows: Vec<u32>,
    /// Where each step ends in `rows`.
    ends: Vec<u32>,
}

impl Order {
    /// The order of an epoch of these rows.
    pub(super) fn new(rows: &TokenRows, options: LoaderOptions, epoch: usize) -> Order {
        let maker = Maker { rows, options };
        let mut order = maker.order(epoch as u64);
        if options.longest_first && epoch == 0 {
            order.begin_with(maker.largest(&order));
        }
        order
    }

    /// Number of steps.
    pub(super) fn steps(&self) -> usize {
        self.ends.len()
    }

    /// The rows of the step that begins at a place, or in which the place is.
    pub(super) fn step_at(&self, position: usize) -> &[u32] {
        let step = self.ends.partition_point(|end| *end as usize <= position);
        let end = self.ends.get(step).map_or(self.rows.len(), |end| *end as usize);
        &self.rows[position.min(end)..end]
    }

    fn step(&self, step: usize) -> Range<usize> {
        let start = step.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        start..self.ends[step] as usize
    }

    /// Adds a step.
    fn push(&mut self, rows: impl IntoIterator<Item = u32>) {
        self.rows.extend(rows);
        self.ends.push(self.rows.len() as u32);
    }

    /// Puts a step first.
    fn begin_with(&mut self, step: usize) {
        let mut order = Order::default();
        for step in std::iter::once(step).chain((0..self.steps()).filter(|other| *other != step)) {
            order.push(self.rows[self.step(step)].iter().copied());
        }
        *self = order;
    }
}

struct Maker<'a> {
    rows: &'a TokenRows,
    options: LoaderOptions,
}

impl Maker<'_> {
    fn order(&self, epoch: u64) -> Order {
        let LoaderOptions { batch, shuffle, seed, .. } = self.options;
        if !shuffle {
            return self.steps_of(0..self.rows.len() as u32);
        }
        let chats = self.chats();
        let rows_of = |chat: u32| {
            let next = chats.get(chat as usize + 1).copied().unwrap_or(self.rows.len() as u32);
            chats[chat as usize]..next
        };
        let shuffled = permutation(&[seed, ORDER, epoch], chats.len());
        let BatchSize::Tokens(budget) = batch else {
            return self.steps_of(shuffled.into_iter().flat_map(rows_of));
        };
        let mut order = Order::default();
        for (window, chats) in shuffled.chunks(WINDOW).enumerate() {
            let items: Vec<Range<u32>> =
                chats.iter().flat_map(|&chat| self.parts(rows_of(chat), budget)).collect();
            let sizes: Vec<usize> = items.iter().map(|item| self.tokens(item.clone())).collect();
            let steps = dealt(&sizes, budget);
            for step in permutation(&[seed, STEPS, epoch, window as u64], steps.len()) {
                order.push(steps[step as usize].iter().flat_map(|&item| items[item].clone()));
            }
        }
        order
    }

    /// Where each chat begins; rows that make an example are never parted.
    fn chats(&self) -> Vec<u32> {
        let starts = |row: &usize| *row == 0 || !self.rows.goes_on(*row);
        let examples = (0..self.rows.len()).step_by(self.options.rows_per_example);
        examples.filter(starts).map(|row| row as u32).collect()
    }

    fn tokens(&self, rows: Range<u32>) -> usize {
        rows.map(|row| self.rows.tokens(row as usize)).sum()
    }

    /// The rows of a chat, in parts of whole examples that fit a step if it does not as a whole.
    fn parts(&self, rows: Range<u32>, budget: usize) -> Vec<Range<u32>> {
        let mut parts: Vec<Range<u32>> = Vec::new();
        let mut room = 0;
        for start in rows.clone().step_by(self.options.rows_per_example) {
            let example = start..start + self.options.rows_per_example as u32;
            let tokens = self.tokens(example.clone());
            match parts.last_mut().filter(|_| tokens <= room) {
                Some(part) => {
                    part.end = example.end;
                    room -= tokens;
                }
                None => {
                    parts.push(example);
                    room = budget.saturating_sub(tokens);
                }
            }
        }
        parts
    }

    /// Rows in an order that stays: a step takes whole examples as long as they fit, and one at least.
    fn steps_of(&self, rows: impl Iterator<Item = u32>) -> Order {
        let each = self.options.rows_per_example;
        let mut order = Order { rows: rows.collect(), ends: Vec::new() };
        let mut at = 0;
        while at < order.rows.len() {
            at = match self.options.batch {
                BatchSize::Rows(count) => (at + count.max(1) * each).min(order.rows.len()),
                BatchSize::Tokens(budget) => {
                    let mut tokens = 0;
                    let fits = |example: &&[u32]| {
                        tokens += example.iter().map(|&row| self.rows.tokens(row as usize)).sum::<usize>();
                        tokens <= budget
                    };
                    at + each * order.rows[at..].chunks(each).take_while(fits).count().max(1)
                }
            };
            order.ends.push(at as u32);
        }
        order
    }

    /// The step with the largest micro-batch, as far as lengths tell.
    fn largest(&self, order: &Order) -> usize {
        let LoaderOptions { rows_per_example, micro_batch_tokens, packing, .. } = self.options;
        let size = |step: usize| {
            let examples = order.rows[order.step(step)].chunks(rows_per_example);
            let sizes: Vec<usize> =
                examples.map(|rows| rows.iter().map(|&row| self.rows.tokens(row as usize)).sum()).collect();
            micro_batch_sizes(&sizes, micro_batch_tokens, packing).into_iter().max()
        };
        (0..order.steps()).max_by_key(|step| (size(*step), Reverse(*step))).unwrap_or(0)
    }
}

/// Deals items out over steps of at most `budget` tokens; an item of more has a step of its own.
fn dealt(sizes: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let (large, mut small): (Vec<usize>, Vec<usize>) =
        (0..sizes.len()).partition(|item| sizes[*item] > budget);
    small.sort_by_key(|item| Reverse(sizes[*item]));
    let mut steps: Vec<Vec<usize>> = large.into_iter().map(|item| vec![item]).collect();
    let small_sizes: Vec<usize> = small.iter().map(|item| sizes[*item]).collect();
    let fewest = small_sizes.iter().sum::<usize>().div_ceil(budget.max(1));
    let mut packs = deal(&small_sizes, fewest, budget);
    // A hundredth more steps than must be is no matter.
    if packs.len() > fewest + fewest / 100 {
        let fitted = best_fit(&small_sizes, budget);
        packs = if fitted.len() < packs.len() { fitted } else { packs };
    }
    steps.extend(packs.into_iter().map(|pack| pack.into_iter().map(|item| small[item]).collect()));
    steps
}

/// Deals items, largest first, each to the pack with the most room; a new one is opened where that is too little.
fn deal(sizes: &[usize], fewest: usize, budget: usize) -> Vec<Vec<usize>> {
    let mut packs: Vec<Vec<usize>> = vec![Vec::new(); fewest];
    // Of equal ones the first.
    let mut rooms: BinaryHeap<(usize, Reverse<usize>)> =
        (0..fewest).map(|pack| (budget, Reverse(pack))).collect();
    for (item, &size) in sizes.iter().enumerate() {
        let (room, pack) = match rooms.peek().copied().filter(|(room, _)| size <= *room) {
            Some((room, Reverse(pack))) => {
                rooms.pop();
                (room, pack)
            }
            None => {
                packs.push(Vec::new());
                (budget, packs.len() - 1)
            }
        };
        packs[pack].push(item);
        rooms.push((room - size, Reverse(pack)));
    }
    packs.retain(|pack| !pack.is_empty());
    packs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::pack::Packing;
    use crate::data::random::hash;
    use crate::data::train_row::TrainRow;

    fn rows(lengths: impl Iterator<Item = usize>) -> TokenRows {
        let row = |n| TrainRow { input_ids: vec![1; n], labels: vec![1; n], goes_on: false };
        lengths.map(row).collect()
    }

    fn options(budget: usize) -> LoaderOptions {
        LoaderOptions {
            batch: BatchSize::Tokens(budget),
            rows_per_example: 1,
            micro_batch_tokens: budget,
            packing: Packing::Together,
            shuffle: true,
            longest_first: false,
            epochs: 1,
            max_steps: None,
            seed: 3,
        }
    }

    /// Tokens of each step.
    fn sizes(order: &Order, rows: &TokenRows) -> Vec<usize> {
        let size = |step| order.rows[order.step(step)].iter().map(|&row| rows.tokens(row as usize)).sum();
        (0..order.steps()).map(size).collect()
    }

    #[test]
    fn steps_are_within_two_percent_of_the_fewest() {
        // Lengths as of chats (many short, few long), of texts cut to a length, and of equal rows.
        let skewed = |i: u64| 20 + (1000.0 * (hash(&[i]) as f64 / u64::MAX as f64).powi(4)) as usize;
        let cut = |i: u64| (60 + (hash(&[i]) % 3000) as usize).min(1024);
        let equal = |_: u64| 256;
        for (name, length) in [("skewed", &skewed as &dyn Fn(u64) -> usize), ("cut", &cut), ("equal", &equal)]
        {
            let rows = rows((0..20_000).map(length));
            let order = Order::new(&rows, options(4096), 0);
            let mut all = order.rows.clone();
            all.sort_unstable();
            assert!(all.iter().copied().eq(0..20_000), "{name}");
            let sizes = sizes(&order, &rows);
            assert!(sizes.iter().all(|size| *size <= 4096), "{name}");
            let fewest = sizes.iter().sum::<usize>().div_ceil(4096);
            assert!(sizes.len() <= fewest + fewest / 50 + 1, "{name}: {} of at least {fewest}", sizes.len());
            assert_eq!(order, Order::new(&rows, options(4096), 0));
            assert_ne!(order, Order::new(&rows, options(4096), 1));
        }
    }

    #[test]
    fn steps_have_long_and_short_rows() {
        let rows = rows((0..2000).map(|i| if i % 20 == 0 { 900 } else { 30 + i % 50 }));
        let order = Order::new(&rows, options(4096), 0);
        let longs = |step| order.rows[order.step(step)].iter().filter(|row| **row % 20 == 0).count();
        let (least, most) = (0..order.steps()).map(longs).fold((9, 0), |(a, b), n| (a.min(n), b.max(n)));
        assert!(least >= 2 && most <= 3, "{least} to {most} long rows a step");
    }

    #[test]
    fn best_fit_is_taken_where_dealing_needs_more() {
        // Two of each kind fill a step, but not when the large ones are dealt out first.
        let sizes = [6, 6, 4, 4, 3, 3, 3, 1];
        assert_eq!(dealt(&sizes, 10).len(), 3);
        assert_eq!(dealt(&[5, 40, 5], 10), [vec![1], vec![0, 2]]);
        assert_eq!(dealt(&[3], 0).len(), 1);
        assert!(dealt(&[], 10).is_empty());
    }

    #[test]
    fn the_step_with_the_largest_micro_batch_comes_first_on_request() {
        let rows = rows((0..400).map(|i| if i == 333 { 5000 } else { 100 + i % 7 }));
        let first = |longest_first| {
            let order = Order::new(&rows, LoaderOptions { longest_first, ..options(2048) }, 0);
            (order.steps(), sizes(&order, &rows)[0])
        };
        let (steps, size) = first(true);
        assert_eq!(size, 5000);
        assert_eq!(steps, first(false).0);
        assert!(first(false).1 <= 2048);
    }

    #[test]
    fn chats_of_several_rows_stay_together_unless_a_step_cannot_hold_them() {
        let row = |i: usize, n| TrainRow {
            input_ids: vec![1; n],
            labels: vec![1; n],
            goes_on: !i.is_multiple_of(4),
        };
        let together: TokenRows = (0..400).map(|i| row(i, 50)).collect();
        let order = Order::new(&together, options(450), 0);
        for step in 0..order.steps() {
            assert!(
                order.rows[order.step(step)].chunks(4).all(|chat| chat[0] % 4 == 0 && chat[3] == chat[0] + 3)
            );
        }
        let large: TokenRows = (0..400).map(|i| row(i, 200)).collect();
        let order = Order::new(&large, options(450), 0);
        assert!(sizes(&order, &large).iter().all(|size| *size <= 450));
    }
}
