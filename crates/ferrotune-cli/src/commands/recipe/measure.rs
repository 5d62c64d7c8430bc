//! How a recipe is measured: one value for each row of its tests, before and after, and what that says.

use ferrotune::base::BaseModel;
use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::data::train_row::TrainRow;
use ferrotune::generate::answers::answer;
use ferrotune::train::Trainer;
use ferrotune::{Error, Result};
use serde_json::{Value, json};

use crate::commands::held_out::questions;

/// What is measured on a row.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Whether the greedy answer is the expected text: 1 or 0.
    ExactMatch {
        /// Most tokens of an answer.
        max_new_tokens: usize,
    },
    /// The mean loss of its tokens, in nats.
    Loss,
}

impl Measure {
    /// Its word in results.
    pub fn word(self) -> &'static str {
        match self {
            Measure::ExactMatch { .. } => "exact_match",
            Measure::Loss => "loss",
        }
    }

    /// One value for each row, with the model as the trainer has it now.
    pub fn values(
        self,
        trainer: &Trainer<'_>,
        base: &BaseModel,
        rows: &[TrainRow],
        progress: impl FnMut(usize),
    ) -> Result<Vec<f64>> {
        let (model, pass) = (&trainer.session.model, trainer.session.pass());
        match self {
            Measure::ExactMatch { max_new_tokens } => {
                let asked = questions(rows.iter().cloned().map(Ok), base)?;
                let answers = answer(model, &pass, base, &asked, max_new_tokens, progress)?;
                Ok(asked.iter().zip(&answers).map(|(q, a)| f64::from(q.expected == *a)).collect())
            }
            Measure::Loss => rows.iter().map(|row| loss(trainer, row)).collect(),
        }
    }
}

/// The mean loss of a row's label tokens; rows are evaluated one by one, so each has its own.
fn loss(trainer: &Trainer<'_>, row: &TrainRow) -> Result<f64> {
    let mut batch = PackedBatch::default();
    batch.push(&row.input_ids, &row.labels);
    let loss = trainer.session.evaluate([Ok(batch)])?;
    match loss.count {
        0 => Err(Error::config("data.eval", "a row has no token to predict")),
        _ => Ok(loss.mean()),
    }
}

/// The values of some rows before and after.
pub struct Compared {
    measure: Measure,
    before: Vec<f64>,
    after: Vec<f64>,
}

impl Compared {
    /// Values of the same rows in the same order.
    pub fn new(measure: Measure, before: Vec<f64>, after: Vec<f64>) -> Self {
        Compared { measure, before, after }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.before.len()
    }

    /// Mean before, mean after, mean of the rows' differences (after minus before), each with its standard error, which
    /// is none for a single row.
    pub fn means(&self) -> [(f64, Option<f64>); 3] {
        let differences: Vec<f64> = self.before.iter().zip(&self.after).map(|(b, a)| a - b).collect();
        let of = |values: &[f64]| {
            let m = mean(values);
            match self.measure {
                Measure::ExactMatch { .. } => (m, Some((m * (1.0 - m) / values.len().max(1) as f64).sqrt())),
                Measure::Loss => (m, standard_error(values)),
            }
        };
        [of(&self.before), of(&self.after), (mean(&differences), standard_error(&differences))]
    }

    /// The same for a program.
    pub fn to_json(&self) -> Value {
        let [before, after, gain] = self.means();
        let mut out = json!({
            "rows": self.rows(),
            "before": before.0, "before_standard_error": before.1,
            "after": after.0, "after_standard_error": after.1,
            "difference": gain.0, "difference_standard_error": gain.1,
        });
        if matches!(self.measure, Measure::Loss) {
            out["perplexity_before"] = json!(before.0.exp());
            out["perplexity_after"] = json!(after.0.exp());
        }
        out
    }

    /// Lines of a table with the given title.
    pub fn lines(&self, title: &str) -> Vec<String> {
        let [before, after, gain] = self.means();
        let rows = self.rows();
        let row = |title: &str, cells: [String; 3], rows: &str| {
            format!("  {title:26} {:>16} {:>16} {:>20}{rows}", cells[0], cells[1], cells[2])
        };
        match self.measure {
            Measure::ExactMatch { .. } => {
                let cell = |(p, e): (f64, Option<f64>)| with_error(100.0 * p, e.map(|e| 100.0 * e), 1, "%");
                let points = with_error(100.0 * gain.0, gain.1.map(|e| 100.0 * e), 1, " points");
                vec![row(title, [cell(before), cell(after), points], &format!("   {rows} questions"))]
            }
            Measure::Loss => {
                let cell = |(p, e): (f64, Option<f64>)| with_error(p, e, 3, "");
                let perplexity = |(p, _): (f64, Option<f64>)| format!("{:.2}", p.exp());
                let factor = format!("x {:.3}", gain.0.exp());
                vec![
                    row(title, [cell(before), cell(after), cell(gain)], &format!("   {rows} texts")),
                    row("perplexity", [perplexity(before), perplexity(after), factor], ""),
                ]
            }
        }
    }
}

/// `70.0 ± 5.1%`
fn with_error(value: f64, error: Option<f64>, digits: usize, unit: &str) -> String {
    let error = error.map_or_else(String::new, |e| format!(" ± {e:.digits$}"));
    format!("{value:.digits$}{error}{unit}")
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard error of a mean: the sample's standard deviation over the root of its size.
fn standard_error(values: &[f64]) -> Option<f64> {
    let (n, m) = (values.len() as f64, mean(values));
    let squares: f64 = values.iter().map(|v| (v - m).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n * (n - 1.0))).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Option<f64>, expected: f64) {
        let found = found.unwrap();
        assert!((found - expected).abs() < 1e-12, "{found}, expected {expected}");
    }

    #[test]
    fn a_share_has_the_error_of_a_share_and_its_difference_that_of_pairs() {
        let measure = Measure::ExactMatch { max_new_tokens: 1 };
        let compared = Compared::new(measure, vec![0.0, 0.0, 0.0, 1.0], vec![1.0, 1.0, 0.0, 1.0]);
        let [before, after, gain] = compared.means();
        assert_eq!((before.0, after.0, gain.0), (0.25, 0.75, 0.5));
        close(before.1, (0.25 * 0.75 / 4.0_f64).sqrt());
        close(after.1, (0.25 * 0.75 / 4.0_f64).sqrt());
        // Differences 1, 1, 0, 0: a sample variance of 1/3.
        close(gain.1, (1.0 / 12.0_f64).sqrt());
    }

    #[test]
    fn losses_have_the_error_of_their_mean() {
        let compared = Compared::new(Measure::Loss, vec![3.0, 5.0], vec![2.0, 3.0]);
        let [before, after, gain] = compared.means();
        assert_eq!((before.0, after.0, gain.0), (4.0, 2.5, -1.5));
        close(before.1, 1.0);
        close(after.1, 0.5);
        close(gain.1, 0.5);
        assert_eq!(Compared::new(Measure::Loss, vec![3.0], vec![2.0]).means()[2], (-1.0, None));
    }
}
