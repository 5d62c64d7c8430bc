//! Learning rate by step: shapes of transformers' `get_scheduler`.

use std::f64::consts::PI;

pub use crate::run_config::Shape;

/// The learning rate of every step of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Peak learning rate.
    pub lr: f64,
    /// Shape after the warm-up.
    pub shape: Shape,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// Whether the warm-up begins at a rate of 0, as in transformers. Otherwise it begins one step later on the same
    /// line: step `i` (from 0) has `(i + 1) / (warmup + 1)` of the peak.
    pub from_zero: bool,
    /// Steps of the run.
    pub total: usize,
    /// The minimum as a share of the peak.
    pub min_ratio: f64,
}

impl Schedule {
    /// The learning rate of step `step`, from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup {
            let (done, of) = if self.from_zero { (step, self.warmup) } else { (step + 1, self.warmup + 1) };
            return self.lr * done as f64 / of as f64;
        }
        let progress = (step - self.warmup) as f64 / (self.total.saturating_sub(self.warmup)).max(1) as f64;
        let factor = match self.shape {
            Shape::Constant => return self.lr,
            Shape::Linear => (1.0 - progress).max(0.0),
            Shape::Cosine => (0.5 * (1.0 + (PI * progress.min(1.0)).cos())).max(0.0),
        };
        self.lr * (factor * (1.0 - self.min_ratio) + self.min_ratio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_starts_at_zero_and_shapes_end_at_the_minimum() {
        for shape in [Shape::Linear, Shape::Cosine] {
            let s = Schedule { lr: 2.0, shape, warmup: 10, from_zero: true, total: 110, min_ratio: 0.1 };
            assert_eq!(s.at(0), 0.0);
            assert_eq!(s.at(5), 1.0);
            assert_eq!(s.at(10), 2.0);
            assert!((s.at(60) - (0.5 * 0.9 + 0.1) * 2.0).abs() < 1e-12);
            assert!((s.at(110) - 0.2).abs() < 1e-12);
        }
        let s = Schedule {
            lr: 1.0,
            shape: Shape::Constant,
            warmup: 0,
            from_zero: false,
            total: 10,
            min_ratio: 0.0,
        };
        assert_eq!((s.at(0), s.at(1000)), (1.0, 1.0));
    }

    #[test]
    fn no_step_has_a_rate_of_zero_unless_it_is_asked_for() {
        for shape in [Shape::Linear, Shape::Cosine, Shape::Constant] {
            for total in 1..=30 {
                for warmup in 0..=total + 2 {
                    let s = Schedule { lr: 1e-3, shape, warmup, from_zero: false, total, min_ratio: 0.0 };
                    let rates: Vec<f64> = (0..total).map(|step| s.at(step)).collect();
                    assert!(rates.iter().all(|lr| *lr > 0.0 && *lr <= 1e-3), "{s:?}: {rates:?}");
                    let rising = warmup.min(total);
                    assert!(rates[..rising].is_sorted_by(|a, b| a < b), "{s:?}: {rates:?}");
                }
            }
        }
    }
}
