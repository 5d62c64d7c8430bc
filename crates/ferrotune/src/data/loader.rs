//! Rows in a seeded order, an optimizer step at a time.
//!
//! The order of an epoch is a function of the seed and the epoch; a step is a function of that order and a place in it.
//! So two numbers say where a run stands, and a restored run goes on exactly where the other stopped.

use crate::data::order::Order;
use crate::data::pack::{Packing, example_batches, micro_batch_sizes};
use crate::data::packed_batch::PackedBatch;
use crate::data::token_rows::TokenRows;
use crate::data::train_row::TrainRow;
use crate::error::{Error, Result};
use crate::run_config::RunConfig;
use serde::{Deserialize, Serialize};

/// How many examples an optimizer step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many.
    Rows(usize),
    /// Whole examples as long as they fit so many tokens; one at least.
    Tokens(usize),
}

/// How rows become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Examples of an optimizer step.
    pub batch: BatchSize,
    /// Consecutive rows that make one example: its rows stay together in the order and in a micro-batch.
    pub rows_per_example: usize,
    /// Tokens of a micro-batch at most, unless a single row has more.
    pub micro_batch_tokens: usize,
    /// Which rows come together in a micro-batch.
    pub packing: Packing,
    /// A new order in each epoch; else the order of the file.
    pub shuffle: bool,
    /// The step with the largest micro-batch is the first one.
    pub longest_first: bool,
    /// Passes over the rows.
    pub epochs: usize,
    /// Stop after so many steps; more than `epochs` give if need be.
    pub max_steps: Option<usize>,
    /// Source of the order.
    pub seed: u64,
}

impl From<&RunConfig> for LoaderOptions {
    fn from(config: &RunConfig) -> Self {
        let train = &config.train;
        let batch = train.batch_rows.map_or(BatchSize::Tokens(train.batch_tokens), BatchSize::Rows);
        LoaderOptions {
            batch,
            rows_per_example: 1,
            // A micro-batch larger than a row and a step has no use; the memory plan may ask for less.
            micro_batch_tokens: train
                .micro_batch_tokens
                .unwrap_or(train.batch_tokens.max(config.data.max_length)),
            packing: match (config.data.packing, config.data.share_prefixes) {
                (false, _) => Packing::Alone,
                (true, false) => Packing::Together,
                (true, true) => Packing::Shared(usize::MAX),
            },
            shuffle: config.data.shuffle,
            longest_first: config.data.longest_first,
            epochs: train.epochs,
            max_steps: train.max_steps,
            seed: train.seed,
        }
    }
}

/// Where a loader stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoaderState {
    /// Steps that were given out.
    pub step: usize,
    /// The epoch of the next row, from 0.
    pub epoch: usize,
    /// Rows of that epoch that were given out.
    pub position: usize,
}

/// The rows of an optimizer step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its micro-batches.
    pub micro_batches: Vec<PackedBatch>,
    /// Indices of its rows, in order.
    pub rows: Vec<usize>,
    /// Tokens of all its rows.
    pub tokens: usize,
    /// Tokens that its micro-batches store; fewer where rows share some.
    pub stored: usize,
    /// Targets of all its rows: what the loss of the step is divided by, unless the run asks for `labels`.
    pub label_tokens: usize,
    /// Labels of all its rows before they are shifted.
    pub labels: usize,
    /// Epochs that are done when the step is.
    pub epoch: f64,
}

/// Gives out the steps of a run.
#[derive(Clone, Debug)]
pub struct Loader {
    rows: TokenRows,
    options: LoaderOptions,
    state: LoaderState,
    steps_total: usize,
    /// The order of `state.epoch`.
    order: Order,
}

impl Loader {
    /// A loader at its first step. There must be rows; none of them may be empty.
    pub fn new(rows: impl Into<TokenRows>, options: LoaderOptions) -> Result<Self> {
        let rows = rows.into();
        if rows.is_empty() {
            return Err(Error::config("data.train", "there are no rows to train on"));
        }
        if rows.len() > u32::MAX as usize {
            return Err(Error::config("data.train", format!("{} rows are more than 2^32", rows.len())));
        }
        let each = options.rows_per_example;
        if each == 0 || !rows.len().is_multiple_of(each) {
            let problem = format!("{} rows are no whole number of examples of {each} rows", rows.len());
            return Err(Error::config("data.train", problem));
        }
        let order = Order::new(&rows, options, 0);
        let steps_total = match options.max_steps {
            Some(steps) => steps,
            None => {
                order.steps()
                    + (1..options.epochs).map(|e| Order::new(&rows, options, e).steps()).sum::<usize>()
            }
        };
        Ok(Loader { rows, options, state: LoaderState::default(), steps_total, order })
    }

    /// The rows.
    pub fn rows(&self) -> &TokenRows {
        &self.rows
    }

    /// Steps of the whole run.
    pub fn steps_total(&self) -> usize {
        self.steps_total
    }

    /// Where the loader stands; the next step depends on nothing else.
    pub fn state(&self) -> LoaderState {
        self.state
    }

    /// Whole epochs that were given out.
    pub(crate) fn epochs_done(&self) -> usize {
        self.state.epoch + usize::from(self.state.position >= self.rows.len())
    }

    /// Goes to a place that [`Loader::state`] gave for the same rows and options.
    pub(crate) fn restore(&mut self, state: LoaderState) -> Result<()> {
        if state.position > self.rows.len() {
            return Err(Error::train(format!(
                "the saved run stood at row {} of an epoch, but the data has {} rows",
                state.position,
                self.rows.len()
            ))
            .with_hint("the data or its preparation changed since; start a new run"));
        }
        if state.epoch != self.state.epoch {
            self.order = Order::new(&self.rows, self.options, state.epoch);
        }
        self.state = state;
        Ok(())
    }

    /// The numbers of the next step's rows, or none if the run is over.
    pub(crate) fn next_rows(&mut self) -> Option<Vec<usize>> {
        if self.state.step >= self.steps_total {
            return None;
        }
        if self.state.position >= self.rows.len() {
            self.state.epoch += 1;
            self.state.position = 0;
            self.order = Order::new(&self.rows, self.options, self.state.epoch);
        }
        let rows = self.order.step_at(self.state.position);
        self.state.position += rows.len();
        self.state.step += 1;
        Some(rows.iter().map(|&row| row as usize).collect())
    }

    /// The next step, or none if the run is over.
    ///
    /// # Errors
    /// A row cannot be read.
    pub(crate) fn next_step(&mut self) -> Result<Option<Step>> {
        let Some(rows) = self.next_rows() else { return Ok(None) };
        let taken = self.rows.rows(rows.iter().copied())?;
        let LoaderOptions { rows_per_example, micro_batch_tokens, packing, .. } = self.options;
        let micro_batches =
            example_batches(&taken.iter().collect::<Vec<_>>(), rows_per_example, micro_batch_tokens, packing);
        Ok(Some(Step {
            tokens: micro_batches.iter().map(|b| b.row_tokens).sum(),
            stored: micro_batches.iter().map(PackedBatch::len).sum(),
            label_tokens: micro_batches.iter().map(PackedBatch::label_tokens).sum(),
            labels: micro_batches.iter().map(|b| b.labels).sum(),
            epoch: self.state.epoch as f64 + self.state.position as f64 / self.rows.len() as f64,
            micro_batches,
            rows,
        }))
    }

    /// Tokens of the micro-batches of a step with these rows, where none shares what it begins with.
    pub(crate) fn unshared(&self, rows: &[usize]) -> Vec<usize> {
        let LoaderOptions { rows_per_example, micro_batch_tokens, packing, .. } = self.options;
        let sizes: Vec<usize> = rows
            .chunks(rows_per_example)
            .map(|rows| rows.iter().map(|&row| self.rows.tokens(row)).sum())
            .collect();
        micro_batch_sizes(&sizes, micro_batch_tokens, packing)
    }
}

impl Iterator for Loader {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        self.next_step().transpose()
    }
}

/// Rows once, in order, in micro-batches: for evaluation.
#[derive(Clone, Debug)]
pub struct EvalBatches {
    /// The rows.
    pub rows: TokenRows,
    /// As for [`LoaderOptions`].
    pub rows_per_example: usize,
    /// As for [`LoaderOptions`].
    pub micro_batch_tokens: usize,
    /// As for [`LoaderOptions`].
    pub packing: Packing,
}

/// Rows that are packed together for evaluation at most, in whole examples.
const EVAL_WINDOW: usize = 4096;

impl EvalBatches {
    /// The micro-batches, of which few are in memory at a time.
    pub fn iter(&self) -> impl Iterator<Item = Result<PackedBatch>> + '_ {
        let each = self.rows_per_example.max(1);
        let window = EVAL_WINDOW.next_multiple_of(each);
        (0..self.rows.len()).step_by(window).flat_map(move |from| {
            match self.rows.rows(from..self.rows.len().min(from + window)) {
                Err(error) => vec![Err(error)],
                Ok(rows) => {
                    let rows: Vec<&TrainRow> = rows.iter().collect();
                    example_batches(&rows, each, self.micro_batch_tokens, self.packing)
                        .into_iter()
                        .map(Ok)
                        .collect()
                }
            }
        })
    }

    /// Tokens of the largest micro-batch; at most so many of many rows. 0 without rows.
    ///
    /// # Errors
    /// A row cannot be read.
    pub(crate) fn largest(&self) -> Result<usize> {
        if self.rows.len() > EVAL_WINDOW {
            return Ok(self.rows.longest().max(self.micro_batch_tokens));
        }
        self.iter()
            .map(|batch| Ok(batch?.len()))
            .try_fold(0, |largest, size: Result<usize>| Ok(largest.max(size?)))
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn rows(lengths: &[usize]) -> Vec<TrainRow> {
        let row = |(i, &n): (usize, &usize)| {
            let ids: Vec<u32> = (0..n as u32).map(|t| 100 * i as u32 + t).collect();
            TrainRow { labels: ids.iter().map(|&id| id as i32).collect(), input_ids: ids, goes_on: false }
        };
        lengths.iter().enumerate().map(row).collect()
    }

    fn options(batch: BatchSize) -> LoaderOptions {
        LoaderOptions {
            batch,
            rows_per_example: 1,
            micro_batch_tokens: 16,
            packing: Packing::Together,
            shuffle: true,
            longest_first: false,
            epochs: 3,
            max_steps: None,
            seed: 5,
        }
    }

    const LENGTHS: [usize; 10] = [3, 9, 2, 16, 5, 7, 4, 4, 11, 2];

    fn loader(batch: BatchSize) -> Loader {
        Loader::new(rows(&LENGTHS), options(batch)).unwrap()
    }

    fn steps(loader: Loader) -> Vec<Step> {
        loader.map(Result::unwrap).collect()
    }

    #[test]
    fn each_epoch_has_every_row_once_in_its_own_order() {
        let steps = steps(loader(BatchSize::Rows(4)));
        assert_eq!(steps.len(), 9);
        assert_eq!(loader(BatchSize::Rows(4)).steps_total(), 9);
        let epochs: Vec<Vec<usize>> =
            steps.chunks(3).map(|epoch| epoch.iter().flat_map(|step| step.rows.clone()).collect()).collect();
        for epoch in &epochs {
            assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>().len(), 10);
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(epochs[1], epochs[2]);
        let sizes: Vec<usize> = steps.iter().map(|step| step.rows.len()).collect();
        assert_eq!(sizes, [4, 4, 2, 4, 4, 2, 4, 4, 2]);
        assert_eq!(steps[2].epoch, 1.0);
    }

    #[test]
    fn rows_of_one_chat_stay_together_and_others_are_ordered_as_before() {
        let mut chats = rows(&LENGTHS);
        let order = |rows: &[TrainRow]| -> Vec<usize> {
            let options = LoaderOptions { epochs: 1, ..options(BatchSize::Rows(4)) };
            steps(Loader::new(rows.to_vec(), options).unwrap())
                .into_iter()
                .flat_map(|step| step.rows)
                .collect()
        };
        let alone = order(&chats);
        for row in [1, 2, 6] {
            chats[row].goes_on = true;
        }
        let together = order(&chats);
        assert_eq!(together.iter().collect::<BTreeSet<_>>().len(), 10);
        let at = |row: usize| together.iter().position(|&r| r == row).unwrap();
        assert_eq!([at(1), at(2), at(6)], [at(0) + 1, at(0) + 2, at(5) + 1]);
        assert_eq!(alone, order(&rows(&LENGTHS)));
        assert_ne!(together, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_step_holds_the_tokens_and_targets_of_its_rows() {
        for step in steps(loader(BatchSize::Tokens(20))) {
            let lengths: Vec<usize> = step.rows.iter().map(|&row| LENGTHS[row]).collect();
            assert_eq!(step.tokens, lengths.iter().sum::<usize>());
            assert_eq!(step.label_tokens, lengths.iter().map(|n| n - 1).sum::<usize>());
            assert!(step.tokens <= 20);
            let mut found: Vec<u32> = step.micro_batches.iter().flat_map(|b| b.tokens.clone()).collect();
            let mut expected: Vec<u32> = step
                .rows
                .iter()
                .flat_map(|&row| (0..LENGTHS[row] as u32).map(move |t| 100 * row as u32 + t))
                .collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected);
            for batch in &step.micro_batches {
                assert!(batch.len() <= 16);
                // A target is the next token of the same segment, which these ids make easy to see.
                for segment in &batch.segments {
                    let segment = segment.queries();
                    assert_eq!(batch.positions[segment.start], 0);
                    assert_eq!(batch.targets[segment.end - 1], crate::data::packed_batch::NO_TARGET);
                    for t in segment.start..segment.end - 1 {
                        assert_eq!(batch.targets[t], batch.tokens[t] as i32 + 1);
                    }
                }
            }
        }
    }

    #[test]
    fn budgets_smaller_than_a_row_give_it_a_step_of_its_own() {
        let loader = loader(BatchSize::Tokens(1));
        assert_eq!(loader.steps_total(), 30);
        assert!(steps(loader.clone()).iter().all(|step| step.rows.len() == 1));
        let longest = steps(loader).iter().map(|step| step.micro_batches[0].len()).max();
        assert_eq!(longest, Some(16));
    }

    #[test]
    fn a_budget_that_rows_fill_exactly_is_used() {
        let sizes = |batch, bound| {
            let options =
                LoaderOptions { shuffle: false, epochs: 1, micro_batch_tokens: bound, ..options(batch) };
            let steps = steps(Loader::new(rows(&[4, 4, 4, 4, 9]), options).unwrap());
            let lengths = |step: &Step| step.micro_batches.iter().map(PackedBatch::len).collect::<Vec<_>>();
            steps.iter().map(lengths).collect::<Vec<_>>()
        };
        assert_eq!(sizes(BatchSize::Tokens(8), 8), [vec![8], vec![8], vec![9]]);
        assert_eq!(sizes(BatchSize::Rows(5), 8), [vec![9, 8, 8]]);
        assert_eq!(sizes(BatchSize::Rows(5), 7), [vec![9, 4, 4, 4, 4]]);
    }

    #[test]
    fn the_total_is_right_for_token_budgets_whose_epochs_differ() {
        for budget in 1..60 {
            let loader = loader(BatchSize::Tokens(budget));
            assert_eq!(loader.steps_total(), loader.count(), "{budget}");
        }
    }

    #[test]
    fn a_restored_loader_goes_on_where_the_other_stopped() {
        for batch in [BatchSize::Rows(3), BatchSize::Tokens(12)] {
            let whole = steps(loader(batch));
            for stop in 0..=whole.len() {
                let mut first = loader(batch);
                assert_eq!(first.by_ref().take(stop).count(), stop);
                let saved = serde_json::to_string(&first.state()).unwrap();
                let mut second = loader(batch);
                second.restore(serde_json::from_str(&saved).unwrap()).unwrap();
                assert_eq!(steps(second), whole[stop..]);
            }
        }
        let state = LoaderState { step: 1, epoch: 0, position: 11 };
        assert!(loader(BatchSize::Rows(3)).restore(state).is_err());
    }

    #[test]
    fn without_shuffling_the_file_order_stays() {
        let mut options = options(BatchSize::Rows(4));
        options.shuffle = false;
        let rows = steps(Loader::new(rows(&LENGTHS), options).unwrap())
            .into_iter()
            .flat_map(|step| step.rows)
            .collect::<Vec<_>>();
        assert_eq!(rows, (0..30).map(|i| i % 10).collect::<Vec<_>>());
    }

    #[test]
    fn max_steps_ends_early_and_goes_beyond_the_epochs() {
        let count = |max_steps| {
            let options = LoaderOptions { max_steps: Some(max_steps), ..options(BatchSize::Rows(4)) };
            let loader = Loader::new(rows(&LENGTHS), options).unwrap();
            (loader.steps_total(), loader.count())
        };
        assert_eq!(count(2), (2, 2));
        assert_eq!(count(20), (20, 20));
    }

    #[test]
    fn the_rows_of_an_example_stay_together() {
        for packing in [Packing::Alone, Packing::Together, Packing::Shared(usize::MAX)] {
            for batch in [BatchSize::Rows(2), BatchSize::Tokens(20)] {
                let options = LoaderOptions { rows_per_example: 2, packing, ..options(batch) };
                let loader = Loader::new(rows(&LENGTHS), options).unwrap();
                assert_eq!(loader.steps_total(), loader.clone().count());
                let mut seen = BTreeSet::new();
                for step in steps(loader) {
                    assert!(step.rows.chunks(2).all(|pair| pair[0] % 2 == 0 && pair[1] == pair[0] + 1));
                    assert!(batch != BatchSize::Rows(2) || step.rows.len() <= 4);
                    for micro in &step.micro_batches {
                        // The ids say which row a token is of.
                        let rows: BTreeSet<u32> = micro.tokens.iter().map(|id| id / 100).collect();
                        assert!(rows.iter().all(|row| rows.contains(&(row ^ 1))), "{rows:?}");
                        assert!(micro.len() <= 16 || rows.len() == 2, "{} tokens", micro.len());
                        seen.extend(rows);
                    }
                }
                assert_eq!(seen.len(), LENGTHS.len());
            }
        }
        let odd = LoaderOptions { rows_per_example: 3, ..options(BatchSize::Rows(1)) };
        assert!(Loader::new(rows(&LENGTHS), odd).unwrap_err().to_string().contains("examples of 3 rows"));
    }

    #[test]
    fn without_packing_each_row_is_a_micro_batch() {
        let options = LoaderOptions { packing: Packing::Alone, ..options(BatchSize::Rows(10)) };
        let step = Loader::new(rows(&LENGTHS), options).unwrap().next().unwrap().unwrap();
        assert_eq!(step.micro_batches.len(), 10);
        assert!(step.micro_batches.iter().all(|batch| batch.segments.len() == 1));
    }

    #[test]
    fn the_seed_changes_the_order() {
        let order = |seed| {
            let options = LoaderOptions { seed, ..options(BatchSize::Rows(10)) };
            Loader::new(rows(&LENGTHS), options).unwrap().next().unwrap().unwrap().rows
        };
        assert_eq!(order(5), order(5));
        assert_ne!(order(5), order(6));
        assert!(Loader::new(TokenRows::none(), options(BatchSize::Rows(1))).is_err());
    }
}
