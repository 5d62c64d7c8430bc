//! What became of an example, in few bytes: reports about any selection of examples are sums of these.

use super::pieces::Piece;
use super::report::PrepReport;
use crate::data::token_rows::RowMeta;

/// What became of an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// It cannot be used.
    pub(crate) bad: bool,
    /// A text that became several rows because it is too long.
    pub(super) split_text: bool,
    /// A text that was cut.
    pub(super) cut_text: bool,
    /// Words of control tokens in it were read as text.
    pub(super) control_words: bool,
    /// What the template leaves out, a bit for each of [`Piece::ALL`].
    pub(super) left_out: u16,
    /// Rows that were cut to the maximal length.
    pub(super) truncated: u32,
    /// Rows that lost the end of their answer so.
    pub(super) lost_terminators: u32,
    /// Rows left out as too long.
    pub(super) overlong: u32,
    /// Rows left out because no token of theirs is predicted and supervised.
    pub(super) unsupervised: u32,
    /// Rows of source files in fill-in-the-middle order.
    pub(super) permuted: u32,
    /// Thoughts that were masked or dropped.
    pub(super) thoughts: u32,
}

impl Outcome {
    pub(crate) const BYTES: usize = 28;

    /// An example that cannot be used.
    pub(crate) fn bad() -> Self {
        Outcome { bad: true, ..Outcome::default() }
    }

    /// Notes that the template leaves a piece out.
    pub(super) fn leave_out(&mut self, piece: Piece) {
        let bit = Piece::ALL.iter().position(|p| *p == piece).unwrap_or_default();
        self.left_out |= 1 << bit;
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let flags = [self.bad, self.split_text, self.cut_text, self.control_words];
        let flags = flags.iter().enumerate().map(|(bit, on)| u32::from(*on) << bit).sum::<u32>();
        let last = flags << 16 | u32::from(self.left_out);
        let words = [
            last,
            self.truncated,
            self.lost_terminators,
            self.overlong,
            self.unsupervised,
            self.permuted,
            self.thoughts,
        ];
        let mut bytes = [0; Self::BYTES];
        bytes.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        bytes
    }

    /// The outcome of these bytes; absent if they are too few.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let word = |i: usize| Some(u32::from_le_bytes(bytes.get(4 * i..4 * i + 4)?.try_into().ok()?));
        let flag = |bit: u32| word(0).is_some_and(|last| last >> (16 + bit) & 1 == 1);
        Some(Outcome {
            bad: flag(0),
            split_text: flag(1),
            cut_text: flag(2),
            control_words: flag(3),
            left_out: word(0)? as u16,
            truncated: word(1)?,
            lost_terminators: word(2)?,
            overlong: word(3)?,
            unsupervised: word(4)?,
            permuted: word(5)?,
            thoughts: word(6)?,
        })
    }
}

impl PrepReport {
    /// Counts an example and its rows.
    pub(crate) fn add(&mut self, outcome: &Outcome, rows: &[RowMeta]) {
        self.rows += 1;
        let made = rows.len() + (outcome.overlong + outcome.unsupervised) as usize;
        if outcome.split_text {
            self.split_texts += 1;
            self.text_pieces += made;
        } else if made > 1 {
            self.split_rows += 1;
            self.added_rows += made - 1;
        }
        self.cut_texts += usize::from(outcome.cut_text);
        self.control_words += usize::from(outcome.control_words);
        for (bit, piece) in Piece::ALL.iter().enumerate().filter(|(bit, _)| outcome.left_out >> bit & 1 == 1)
        {
            debug_assert!(bit < 16);
            *self.left_out.entry(*piece).or_default() += 1;
        }
        self.permuted_rows += outcome.permuted as usize;
        self.thoughts += outcome.thoughts as usize;
        self.truncated += outcome.truncated as usize;
        self.lost_terminators += outcome.lost_terminators as usize;
        self.dropped_overlong += outcome.overlong as usize;
        self.dropped_unsupervised += outcome.unsupervised as usize;
        for row in rows {
            self.kept += 1;
            self.tokens += row.tokens();
            self.label_tokens += row.label_tokens();
            self.longest = self.longest.max(row.tokens());
            self.rows_with_terminator += usize::from(row.ends());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_everything() {
        let mut outcome = Outcome {
            cut_text: true,
            control_words: true,
            truncated: 1,
            lost_terminators: 2,
            overlong: 300_000,
            unsupervised: 4,
            permuted: 5,
            thoughts: 6,
            ..Outcome::default()
        };
        Piece::ALL.iter().step_by(2).for_each(|piece| outcome.leave_out(*piece));
        for outcome in [outcome, Outcome::bad(), Outcome { split_text: true, ..outcome }] {
            assert_eq!(Outcome::from_bytes(&outcome.to_bytes()), Some(outcome));
        }
        assert_eq!(Outcome::from_bytes(&outcome.to_bytes()[1..]), None);
        let mut report = PrepReport::default();
        report.add(&outcome, &[]);
        assert_eq!(report.left_out.len(), Piece::ALL.len().div_ceil(2));
        assert_eq!((report.added_rows, report.dropped_overlong), (300_003, 300_000));
    }
}
