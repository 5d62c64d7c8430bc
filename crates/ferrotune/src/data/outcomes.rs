//! What became of every example of a data set, in few bytes: neighbours with the same outcome are one entry.

use std::ops::Range;

use super::tokenize::Outcome;

/// Consecutive examples with the same outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Its first example.
    example: u32,
    /// The first row of that example; those of the next example follow its own.
    row: u32,
    fate: Fate,
}

/// What is the same for all examples of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    /// Which input of the run file an example came from.
    input: u32,
    /// How many rows it became.
    rows: u32,
    outcome: Outcome,
}

/// What became of an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExampleOutcome {
    /// Which input of the run file it came from.
    pub(crate) input: u32,
    /// Its rows.
    pub(crate) rows: Range<u32>,
    pub(crate) outcome: Outcome,
}

/// The outcomes of examples in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    runs: Vec<Run>,
    /// Examples of all runs.
    examples: u32,
    /// Rows of all of them.
    rows: u32,
}

impl Outcomes {
    /// Number of examples.
    pub(crate) fn len(&self) -> usize {
        self.examples as usize
    }

    /// Adds an example of `rows` rows. None if there are more than 2^32 examples or rows.
    pub(crate) fn push(&mut self, input: u32, rows: u32, outcome: Outcome) -> Option<()> {
        self.extend(1, Fate { input, rows, outcome })
    }

    fn extend(&mut self, examples: u32, fate: Fate) -> Option<()> {
        let end = self.examples.checked_add(examples)?;
        let rows = self.rows.checked_add(fate.rows.checked_mul(examples)?)?;
        if self.runs.last().is_none_or(|run| run.fate != fate) {
            self.runs.push(Run { example: self.examples, row: self.rows, fate });
        }
        (self.examples, self.rows) = (end, rows);
        Some(())
    }

    /// What became of an example. Panics if there is no such example.
    pub(crate) fn get(&self, example: usize) -> ExampleOutcome {
        assert!(example < self.len(), "example {example} of {}", self.len());
        let run = self.runs[self.runs.partition_point(|run| run.example as usize <= example) - 1];
        let Fate { input, rows, outcome } = run.fate;
        let start = run.row + (example as u32 - run.example) * rows;
        ExampleOutcome { input, rows: start..start + rows, outcome }
    }

    /// For each run: its examples, input and rows, and the outcome.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::RUN * self.runs.len());
        for (i, Run { example, fate, .. }) in self.runs.iter().enumerate() {
            let end = self.runs.get(i + 1).map_or(self.examples, |next| next.example);
            bytes.extend([end - example, fate.input, fate.rows].iter().flat_map(|word| word.to_le_bytes()));
            bytes.extend(fate.outcome.to_bytes());
        }
        bytes
    }

    /// Bytes of a run.
    const RUN: usize = 12 + Outcome::BYTES;

    /// The outcomes of these bytes; none if they are no such.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut all = Outcomes::default();
        for run in bytes.chunks(Self::RUN) {
            let word = |i: usize| Some(u32::from_le_bytes(run.get(4 * i..4 * i + 4)?.try_into().ok()?));
            let outcome = Outcome::from_bytes(&run[12.min(run.len())..])?;
            all.extend(word(0)?, Fate { input: word(1)?, rows: word(2)?, outcome })?;
        }
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outcome(kind: u8) -> Outcome {
        if kind == 0 { Outcome::bad() } else { Outcome::default() }
    }

    proptest! {
        #[test]
        fn each_example_has_its_own_rows(examples in proptest::collection::vec((0..2_u32, 0..3_u32, 0..2_u8), 0..60)) {
            let mut all = Outcomes::default();
            for &(input, rows, kind) in &examples {
                all.push(input, rows, outcome(kind)).unwrap();
            }
            prop_assert_eq!(all.len(), examples.len());
            let mut row = 0;
            for (i, &(input, rows, kind)) in examples.iter().enumerate() {
                let expected = ExampleOutcome { input, rows: row..row + rows, outcome: outcome(kind) };
                prop_assert_eq!(all.get(i), expected);
                row += rows;
            }
            prop_assert_eq!(Outcomes::from_bytes(&all.to_bytes()), Some(all));
        }
    }

    #[test]
    fn alike_neighbours_take_one_entry_and_too_many_are_refused() {
        let mut all = Outcomes::default();
        (0..1000).for_each(|_| all.push(0, 1, Outcome::default()).unwrap());
        assert_eq!(all.to_bytes().len(), Outcomes::RUN);
        assert_eq!(all.push(0, u32::MAX, Outcome::default()), None);
        assert_eq!(Outcomes::from_bytes(&all.to_bytes()[1..]), None);
    }
}
