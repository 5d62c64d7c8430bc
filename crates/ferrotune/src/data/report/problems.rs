//! What a user should look at before training, the gravest first.

use serde::Serialize;

use super::near::MOST;
use super::{DataReport, Pairs, PartReport, Places};
use crate::data::tokenize::Names;

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// What is trained, or measured, is probably not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How grave it is.
    pub level: Level,
    /// A sentence.
    pub text: String,
    /// The first rows that it is about.
    pub places: Vec<String>,
}

impl DataReport {
    /// What to look at before training, the gravest first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut all = Findings(Vec::new());
        let prepared = self.train.report.warnings();
        let held = self.eval.iter().flat_map(|eval| eval.report.warnings_in(Names::EVAL));
        prepared.into_iter().chain(held.map(|text| format!("held-out rows: {text}"))).for_each(|text| {
            all.add(Level::Warning, 1, text, Vec::new());
        });
        all.endings(&self.train);
        let rows = self.train.report.kept;
        let pairs =
            |pairs: &Pairs| pairs.first.iter().map(|[row, other]| format!("{row} as {other}")).collect();
        let leaks = &self.leakage;
        all.add(
            Level::Warning,
            leaks.exact.rows,
            format!("{} of the held-out rows are in training too: their loss says nothing", leaks.exact.rows),
            pairs(&leaks.exact),
        );
        all.add(
            Level::Warning,
            leaks.near.rows,
            format!("{} of the held-out rows are nearly as one in training", leaks.near.rows),
            pairs(&leaks.near),
        );
        all.add(
            Level::Note,
            leaks.questions.rows,
            format!(
                "{} of the held-out questions are in training, with another answer",
                leaks.questions.rows
            ),
            pairs(&leaks.questions),
        );
        let (exact, near) = (&self.duplicates.exact, &self.duplicates.near);
        let level = if 20 * exact.rows > rows { Level::Warning } else { Level::Note };
        all.add(
            level,
            exact.rows,
            format!("{} rows are the same as an earlier one", exact.rows),
            pairs(exact),
        );
        let text = format!("{} rows are nearly the same as an earlier one", near.rows);
        let text = match self.duplicates.near_among >= MOST {
            true => format!("{text} (looked for among {} rows)", self.duplicates.near_among),
            false => text,
        };
        all.add(Level::Note, near.rows, text, pairs(near));
        all.places(Level::Warning, &self.empty_answers, |rows| {
            format!("{rows} rows have an answer without text")
        });
        for (oddity, places) in &self.oddities {
            all.places(Level::Warning, places, |rows| format!("{rows} rows have {}", oddity.words()));
        }
        all.places(Level::Note, &self.other_language, |rows| {
            format!("{rows} rows are in another language than most (as far as that can be told)")
        });
        for (rule, places) in &self.sensitive {
            all.places(Level::Warning, places, |rows| {
                format!("{rows} rows have what looks like a secret or personal data: {rule}")
            });
        }
        let mut all = all.0;
        all.sort_by_key(|finding| finding.level);
        all
    }
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, rows: usize, text: String, places: Vec<String>) {
        if rows > 0 {
            self.0.push(Finding { level, text, places });
        }
    }

    fn places(&mut self, level: Level, places: &Places, text: impl Fn(usize) -> String) {
        self.add(level, places.rows, text(places.rows), places.first.clone());
    }

    /// Rows that do not end with what the model stops at, where most do.
    fn endings(&mut self, part: &PartReport) {
        let kept = part.report.kept;
        let stop: usize = part.endings.iter().filter(|ending| ending.stops).map(|ending| ending.rows).sum();
        let others = kept - stop.min(kept);
        self.add(
            Level::Note,
            if stop > 0 { others } else { 0 },
            format!("{others} of {kept} rows do not end with a token at which the model stops"),
            Vec::new(),
        );
    }
}
