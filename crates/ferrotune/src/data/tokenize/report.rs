//! What happened to the rows of a data set.

use serde::Serialize;

/// Counts of a preparation; nothing is cut or left out without being counted here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PrepReport {
    /// Rows that were read.
    pub rows: usize,
    /// Rows that are left.
    pub kept: usize,
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
        let mut warnings = Vec::new();
        if self.kept > 0 && self.rows_with_terminator == 0 {
            warnings.push(
                "no row trains the token that ends an answer: the model will not learn to stop (look at a preview)".to_string(),
            );
        }
        for (count, text) in [
            (self.truncated, "were cut to data.max_length"),
            (
                self.lost_terminators,
                "lost the end of their answer when they were cut and do not train to stop",
            ),
            (self.dropped_overlong, "are longer than data.max_length and were left out"),
            (self.dropped_unsupervised, "have no supervised token and were left out"),
        ] {
            if count > 0 {
                warnings.push(format!("{count} of {} rows {text}", self.rows));
            }
        }
        warnings
    }
}
