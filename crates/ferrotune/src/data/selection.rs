//! Which examples are trained on and which are held out, and how often each is taken.

use serde::Serialize;

use super::random;
use super::reading::Tokenized;
use crate::run_config::SourceOptions;
use crate::{Error, Result};

/// Keeps the numbers of the split apart from those of the order.
const HELD_OUT: u64 = 0x6865_6c64;

/// Keeps the numbers of the choice apart from those of the split and the order.
const WEIGHT: u64 = 0x7765_6967;

/// A source and what is taken of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    /// Its path, as the run file has it.
    pub path: String,
    /// How often each of its rows is taken.
    pub weight: f64,
    /// Its rows, without those kept out for evaluation.
    pub rows: usize,
    /// Rows that are taken.
    pub taken: usize,
}

impl Source {
    /// A source of the run file, of which nothing is taken yet.
    pub(super) fn new(options: &SourceOptions) -> Self {
        Source { path: options.path.clone(), weight: options.weight, rows: 0, taken: 0 }
    }
}

/// Which of `count` examples are held out for evaluation. That depends on the seed and on their places in the files, not on
/// any order of training.
pub(super) fn held_out(count: usize, share: f64, seed: u64) -> Result<Vec<bool>> {
    if count < 2 {
        return Err(Error::config(
            "data.eval",
            format!("{count} row cannot be shared between training and evaluation"),
        )
        .with_hint("give more rows, a file of its own for data.eval, or data.eval=none"));
    }
    let held = ((share * count as f64).round() as usize).clamp(1, count - 1);
    let mut keys: Vec<(u64, u32)> =
        (0..count).map(|i| (random::hash(&[seed, HELD_OUT, i as u64]), i as u32)).collect();
    keys.select_nth_unstable(held - 1);
    let mut is_held = vec![false; count];
    keys[..held].iter().for_each(|&(_, i)| is_held[i as usize] = true);
    Ok(is_held)
}

/// The examples as often as the weights of their sources say: a whole part of a weight repeats each row, a fraction takes
/// a share of them. Which rows that are depends on the seed and on their places. Examples of the first input are taken
/// once; the others are of `sources`, in order.
pub(super) fn weighed(
    all: &Tokenized,
    examples: impl Iterator<Item = usize>,
    sources: &mut [Source],
    seed: u64,
) -> Vec<u32> {
    let mut taken = Vec::with_capacity(examples.size_hint().0);
    for (i, example) in examples.enumerate() {
        let input = all.outcomes.get(example).input as usize;
        let times = match input.checked_sub(1).and_then(|source| sources.get_mut(source)) {
            None => 1,
            Some(source) => {
                let chance = random::hash(&[seed, WEIGHT, i as u64]) as f64 / u64::MAX as f64;
                let times = source.weight.floor() as usize + usize::from(chance < source.weight.fract());
                source.rows += 1;
                source.taken += times;
                times
            }
        };
        taken.extend(std::iter::repeat_n(example as u32, times));
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_held_out_share_depends_on_the_seed_alone() {
        let numbers = |share, seed| {
            let is_held = held_out(200, share, seed).unwrap();
            (0..200).filter(|i| is_held[*i]).collect::<Vec<_>>()
        };
        assert_eq!(numbers(0.05, 0).len(), 10);
        assert_eq!(numbers(0.05, 0), numbers(0.05, 0));
        assert_ne!(numbers(0.05, 0), numbers(0.05, 1));
        let one = |share| held_out(2, share, 0).unwrap().iter().filter(|is_held| **is_held).count();
        assert_eq!((one(0.001), one(0.999)), (1, 1));
        assert!(held_out(1, 0.5, 0).is_err());
    }
}
