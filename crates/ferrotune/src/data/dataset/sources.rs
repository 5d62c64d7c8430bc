//! Several sources in one data set, each with a weight: how often its rows are taken in an epoch.

use serde::Serialize;

use super::Dataset;
use crate::data::random;

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
    /// The first of its files, an index into [`Dataset::files`]; the next source begins where its files end.
    #[serde(skip)]
    pub(super) first_file: usize,
}

/// Keeps the numbers of the choice apart from those of the split and the order.
const WEIGHT: u64 = 0x7765_6967;

impl Dataset {
    /// Adds the rows of a source behind all others.
    pub(crate) fn append(&mut self, path: &str, weight: f64, source: Dataset) {
        let first_file = self.files.len();
        self.files.extend(source.files);
        self.rows.extend(source.rows.into_iter().map(|mut row| {
            row.file += first_file;
            row
        }));
        self.bad = std::mem::take(&mut self.bad).and(source.bad.behind(first_file));
        for (shape, count) in source.shapes {
            *self.shapes.entry(shape).or_default() += count;
        }
        self.sources.push(Source { path: path.to_string(), weight, rows: 0, taken: 0, first_file });
    }

    /// The rows as often as the weights of their sources say: a whole part of a weight repeats each row, a fraction takes
    /// a share of them. Which rows that are depends on the seed and on their places. Rows of no source are taken once.
    pub(crate) fn weighed(mut self, seed: u64) -> Dataset {
        if self.sources.is_empty() {
            return self;
        }
        let mut rows = Vec::with_capacity(self.rows.len());
        for (i, row) in std::mem::take(&mut self.rows).into_iter().enumerate() {
            let Some(source) = self.sources.iter_mut().rfind(|source| source.first_file <= row.file) else {
                rows.push(row);
                continue;
            };
            let chance = random::hash(&[seed, WEIGHT, i as u64]) as f64 / u64::MAX as f64;
            let times = source.weight.floor() as usize + usize::from(chance < source.weight.fract());
            source.rows += 1;
            source.taken += times;
            rows.extend(std::iter::repeat_n(row, times));
        }
        Dataset { rows, ..self }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::ReadOptions;
    use super::*;

    fn read(name: &str, rows: usize) -> Dataset {
        let text: String = (0..rows).map(|i| format!("{{\"text\": \"{name} {i}\"}}\n")).collect();
        let mut dataset = Dataset::default();
        dataset.add(Path::new(name), text.as_bytes(), ReadOptions::default()).unwrap();
        dataset
    }

    #[test]
    fn rows_are_taken_as_often_as_their_weights_say() {
        let sources = || {
            let mut all = read("own", 10);
            all.append("half", 0.5, read("half", 1000));
            all.append("more", 2.25, read("more", 400));
            all
        };
        let all = sources().weighed(3);
        assert_eq!(all.files.len(), 3);
        assert_eq!(all.rows[9].file, 0);
        let [half, more] = &all.sources[..] else { panic!("{:?}", all.sources) };
        assert_eq!((half.rows, more.rows), (1000, 400));
        assert!((450..550).contains(&half.taken), "{half:?}");
        assert!((860..940).contains(&more.taken), "{more:?}");
        assert_eq!(all.rows.len(), 10 + half.taken + more.taken);
        assert_eq!(all.rows.iter().filter(|row| row.file == 2 && row.line == 7).count() / 2, 1);
        assert_eq!(sources().weighed(3), all);
        assert_ne!(sources().weighed(4).rows, all.rows);
    }
}
