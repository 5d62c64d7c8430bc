//! What happened to the rows of a data set.

use super::pieces::Piece;
use crate::data::selection::Source;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a user calls the things that messages about rows speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Where the rows come from.
    pub data: &'static str,
    /// The most tokens of a row.
    pub max_length: &'static str,
    /// Whether there is a run file, whose other keys can be changed.
    pub has_run_file: bool,
}

impl Names {
    /// The rows to train on of a run file.
    pub(crate) const TRAIN: Names =
        Names { data: "data.train", max_length: "data.max_length", has_run_file: true };
    /// The rows to evaluate on of a run file.
    pub(crate) const EVAL: Names = Names { data: "data.eval", ..Names::TRAIN };
    /// The options of a command.
    pub const OPTIONS: Names = Names { data: "--data", max_length: "--max-length", has_run_file: false };
}

impl Default for Names {
    fn default() -> Self {
        Names::TRAIN
    }
}

/// Counts of a preparation; nothing is cut or left out without being counted here.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PrepReport {
    /// Rows that were read.
    pub rows: usize,
    /// How many rows have which shape, in words; those kept out for evaluation count here.
    pub shapes: BTreeMap<String, usize>,
    /// Sources with weights of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// How many files of folders of source code were left out for which reason, in words; those of sources too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out_files: BTreeMap<String, usize>,
    /// Rows of source files in fill-in-the-middle order.
    pub permuted_rows: usize,
    /// Thoughts that were masked or dropped, as `data.reasoning` asks.
    pub thoughts: usize,
    /// Rows that are left, with those that were added.
    pub kept: usize,
    /// Rows that cannot be used and were left out, as `data.bad_rows: skip` asks.
    pub bad_rows: usize,
    /// The first of them with their reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<String>,
    /// Rows that became several, one for each answer that the template writes otherwise as soon as more follows.
    pub split_rows: usize,
    /// How many rows that added.
    pub added_rows: usize,
    /// Texts that became several rows, as `data.overlong: split` asks.
    pub split_texts: usize,
    /// Rows that they became.
    pub text_pieces: usize,
    /// Texts that were cut to the maximal length.
    pub cut_texts: usize,
    /// Rows in whose messages words of control tokens were read as text.
    pub control_words: usize,
    /// Rows of which the template leaves out a piece, by the piece.
    pub left_out: BTreeMap<Piece, usize>,
    /// Rows that were cut to the maximal length.
    pub truncated: usize,
    /// Rows that were cut and so no longer train the end of their answer.
    pub lost_terminators: usize,
    /// Rows left out because they are too long.
    pub dropped_overlong: usize,
    /// Rows left out because no token of theirs would be predicted and supervised.
    pub dropped_unsupervised: usize,
    /// Tokens of the rows that are left.
    pub tokens: usize,
    /// Tokens of them that are predicted and supervised.
    pub label_tokens: usize,
    /// Rows that train a token at which the model stops.
    pub rows_with_terminator: usize,
    /// Tokens of the longest row.
    pub longest: usize,
}

impl PrepReport {
    /// What a user should know, a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings_in(Names::TRAIN)
    }

    /// The warnings, in the words of where the rows come from.
    pub fn warnings_in(&self, names: Names) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.kept > 0 && self.rows_with_terminator == 0 {
            warnings.push(
                "no row trains the token that ends an answer: the model will not learn to stop (look at a preview)".to_string(),
            );
        }
        if self.bad_rows > 0 {
            let list: String = self.bad.iter().map(|line| format!("\n  {line}")).collect();
            let (count, rows) = (self.bad_rows, self.rows);
            warnings.push(format!("{count} of {rows} rows cannot be used and were left out:{list}"));
        }
        for (piece, count) in &self.left_out {
            let words = piece.words();
            warnings.push(format!("{count} of {} rows: the chat template leaves out {words}", self.rows));
        }
        if self.control_words > 0 {
            let (count, rows) = (self.control_words, self.rows);
            let otherwise = match names.has_run_file {
                true => " (data.split_special_tokens=false makes tokens of them)",
                false => "",
            };
            warnings.push(format!(
                "{count} of {rows} rows: words of control tokens in messages are read as text{otherwise}"
            ));
        }
        let whole = match self.cut_texts > 0 && names.has_run_file {
            true => " (data.overlong=split trains all of a text)",
            false => "",
        };
        let cut = format!("were cut to {}{whole}", names.max_length);
        let too_long = format!("are longer than {} and were left out", names.max_length);
        for (count, text) in [
            (self.truncated, cut.as_str()),
            (
                self.lost_terminators,
                "lost the end of their answer when they were cut and do not train to stop",
            ),
            (self.dropped_overlong, too_long.as_str()),
            (self.dropped_unsupervised, "have no supervised token and were left out"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} of {} rows {text}", self.rows + self.added_rows));
            }
        }
        warnings
    }
}
