//! A tokenized row, ready to be packed.

use crate::run_config::Truncation;

/// The label of a token that is not supervised.
pub const IGNORE: i32 = -100;

/// A tokenized example.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainRow {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// The token itself where it is supervised, else [`IGNORE`]; not shifted.
    pub labels: Vec<i32>,
    /// Whether it was made of the same chat as the row before it: both have a beginning in common, and stay together in
    /// the order of training, so that it is computed once.
    pub goes_on: bool,
}

impl TrainRow {
    pub(super) fn new(input_ids: Vec<u32>, supervised: impl Fn(usize) -> bool) -> Self {
        let label = |(i, &id): (usize, &u32)| if supervised(i) { id as i32 } else { IGNORE };
        let labels = input_ids.iter().enumerate().map(label).collect();
        TrainRow { input_ids, labels, goes_on: false }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of tokens that are predicted: supervised ones, without the first, which nothing predicts.
    pub fn label_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|&&label| label != IGNORE).count()
    }

    /// Cuts a row into rows of at most `length` tokens (2 or more). Each begins with the last token of the one before, so
    /// that every token but the first is predicted once.
    pub(super) fn pieces(&self, length: usize) -> impl Iterator<Item = TrainRow> {
        let step = length.max(2) - 1;
        let count = self.len().saturating_sub(1).div_ceil(step);
        (0..count).map(move |piece| {
            let part = piece * step..(piece * step + step + 1).min(self.len());
            let (input_ids, labels) = (self.input_ids[part.clone()].to_vec(), self.labels[part].to_vec());
            TrainRow { input_ids, labels, goes_on: false }
        })
    }

    /// Keeps `length` tokens of one end.
    pub fn truncate(&mut self, length: usize, side: Truncation) {
        match side {
            Truncation::KeepStart => {
                self.input_ids.truncate(length);
                self.labels.truncate(length);
            }
            Truncation::KeepEnd => {
                let cut = self.len().saturating_sub(length);
                self.input_ids.drain(..cut);
                self.labels.drain(..cut);
            }
        }
    }
}
