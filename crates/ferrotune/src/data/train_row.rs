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
