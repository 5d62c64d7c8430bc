//! What one training run gave, on either side.

use serde_json::Value;

use crate::golden::Failure;
use crate::shared::python::number;

/// Numbers of a run, step by step.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    /// Mean loss of each step.
    pub(super) losses: Vec<f64>,
    /// Tokens of each step, without padding.
    pub(super) tokens: Vec<f64>,
    /// Supervised tokens of each step.
    pub(super) labels: Vec<f64>,
    /// Wall time of each step.
    pub(super) seconds: Vec<f64>,
    /// Largest resident memory.
    pub(super) peak_bytes: f64,
    /// Values that are trained.
    pub(super) trainable: f64,
    /// From the start of the process to the first step's end, without that step.
    pub(super) load_seconds: f64,
}

impl Measured {
    /// Reads the lines of steps; what is not of a step comes from the caller.
    pub(super) fn of_steps(steps: &[Value]) -> Result<Self, Failure> {
        let column = |key| steps.iter().map(|s| number(s, key)).collect::<Result<Vec<f64>, _>>();
        let run = Measured {
            losses: column("loss")?,
            tokens: column("tokens")?,
            labels: column("label_tokens")?,
            seconds: column("seconds")?,
            ..Measured::default()
        };
        if steps.len() < 2 {
            return Err(Failure(format!("{} steps, a speed needs at least two", steps.len())));
        }
        Ok(run)
    }

    /// Tokens per second without the first step, which also makes buffers.
    pub(super) fn speed(&self) -> f64 {
        self.tokens[1..].iter().sum::<f64>() / self.seconds[1..].iter().sum::<f64>()
    }

    /// The median time of a step, without the first.
    pub(super) fn median_step(&self) -> f64 {
        let mut sorted = self.seconds[1..].to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }
}

/// Bytes that the event of a run's start predicts: of the process, and with what the system reads ahead of it.
pub(super) fn planned(start: &Value) -> (f64, f64) {
    let parts = start["plan"].as_object().into_iter().flatten();
    let bytes = |with_pages: bool| {
        let counted = parts.clone().filter(|(name, _)| with_pages || *name != "page_cache");
        counted.filter_map(|(_, bytes)| bytes.as_f64()).sum()
    };
    (bytes(false), bytes(true))
}

/// The fastest of several runs of one thing.
pub(super) fn fastest(runs: &[Measured]) -> Option<&Measured> {
    runs.iter().max_by(|a, b| a.speed().total_cmp(&b.speed()))
}

/// How much faster the fastest of several runs was than the slowest: what else the machine did in the meantime.
pub(super) fn spread(runs: &[Measured]) -> f64 {
    let speeds = || runs.iter().map(Measured::speed);
    speeds().fold(0.0, f64::max) / speeds().fold(f64::MAX, f64::min) - 1.0
}

/// Whether two runs did the same work; what differs, in words. `only_first`: of the losses the first is compared, where
/// the reference rounds otherwise, which tells from the second step on.
pub(super) fn differs(ours: &Measured, theirs: &Measured, only_first: bool) -> Option<String> {
    if (ours.trainable / theirs.trainable - 1.0).abs() > 0.01 {
        return Some(format!("{} trained values here, {} there", ours.trainable, theirs.trainable));
    }
    if ours.labels != theirs.labels || ours.tokens != theirs.tokens {
        return Some("other tokens or labels".into());
    }
    let compared = ours.losses.iter().zip(&theirs.losses).take(if only_first { 1 } else { 3 });
    // A loss that is no number is near nothing.
    let near = |a: f64, b: f64| (a / b - 1.0).abs() <= 0.01;
    let wrong = compared.enumerate().find(|(_, (a, b))| !near(**a, **b));
    wrong.map(|(i, (a, b))| format!("loss of step {} is {a:.4} here, {b:.4} there", i + 1))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A run of 4 steps of 100 tokens.
    pub(crate) fn run(seconds: f64, peak_bytes: f64) -> Measured {
        Measured {
            losses: vec![3.0, 2.9, 2.8, 2.7],
            tokens: vec![100.0; 4],
            labels: vec![96.0; 4],
            seconds: vec![9.0, seconds, seconds, seconds],
            peak_bytes,
            trainable: 1000.0,
            load_seconds: 1.0,
        }
    }

    #[test]
    fn the_first_step_does_not_count() {
        let line = |seconds: f64| json!({"loss": 2.0, "tokens": 100, "label_tokens": 96, "seconds": seconds});
        let steps = [line(50.0), line(1.0), line(2.0), line(5.0)];
        let run = Measured::of_steps(&steps).map_err(|f| f.0).unwrap_or_default();
        assert_eq!((run.speed(), run.median_step()), (37.5, 2.0));
        assert!(Measured::of_steps(&steps[..1]).is_err());
        assert!(Measured::of_steps(&[json!({"loss": 2.0}), json!({"loss": 2.0})]).is_err());
    }

    #[test]
    fn pages_that_the_system_reads_are_no_part_of_the_process() {
        assert_eq!(planned(&json!({"plan": {"base": 5, "program": 2, "page_cache": 3}})), (7.0, 10.0));
        assert_eq!(planned(&json!({})), (0.0, 0.0));
    }

    #[test]
    fn a_busy_machine_shows_in_the_spread() {
        let runs = [run(1.0, 1e9), run(1.25, 1e9), run(1.1, 1e9)];
        assert!((spread(&runs) - 0.25).abs() < 1e-9);
        assert!(spread(&runs[..1]).abs() < 1e-9);
        assert_eq!(fastest(&runs), Some(&runs[0]));
    }

    #[test]
    fn other_work_is_seen() {
        let ours = run(1.0, 1e9);
        assert_eq!(differs(&ours, &run(2.0, 5e9), false), None);
        let with = |change: fn(&mut Measured)| {
            let mut theirs = ours.clone();
            change(&mut theirs);
            (differs(&ours, &theirs, false).is_some(), differs(&ours, &theirs, true).is_some())
        };
        assert_eq!(with(|r| r.trainable = 1020.0), (true, true));
        assert_eq!(with(|r| r.labels[3] = 97.0), (true, true));
        assert_eq!(with(|r| r.losses[0] = 3.04), (true, true));
        assert_eq!(with(|r| r.losses[2] = 2.76), (true, false));
        assert_eq!(with(|r| r.losses[3] = 1.0), (false, false));
        assert_eq!(with(|r| r.losses[0] = f64::NAN), (true, true));
        assert_eq!(with(|r| r.trainable = 1009.0), (false, false));
    }
}
