//! What a run is trained towards.
//!
//! An [`Objective`] turns the residual stream after the last layer into a loss and the gradient of it. The model's backward
//! goes on from there, whatever the objective was. Another one is a file here that implements the trait, on top of
//! [`cross_entropy`], whose token weights are any signed numbers; an entry of `OBJECTIVES` and a word of
//! [`ObjectiveKind`] let run files name it.

pub mod cross_entropy;
mod next_token;

use ferrotune_kernels::Tensor;

pub use next_token::NextToken;

use crate::Result;
use crate::data::packed_batch::PackedBatch;
use crate::model::{Decoder, Gradients, Pass};
use crate::run_config::{ObjectiveKind, RunConfig};

/// An objective that a run file can name.
pub(crate) struct Entry {
    /// Its word.
    kind: ObjectiveKind,
    /// Makes it as the run file has it.
    init: fn(&RunConfig) -> Box<dyn Objective>,
}

/// All objectives.
const OBJECTIVES: &[Entry] = &[next_token::NEXT_TOKEN];

/// The objective that a run file names.
pub fn init(config: &RunConfig) -> Box<dyn Objective> {
    let found = OBJECTIVES.iter().find(|entry| entry.kind == config.train.objective);
    let entry = found.unwrap_or_else(|| unreachable!("a test holds that every kind has an entry"));
    (entry.init)(config)
}

/// The loss of some micro-batches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loss {
    /// Sum over all that counts, in nats.
    pub sum: f64,
    /// How much that is: supervised tokens, each as often as it counts.
    pub count: usize,
    /// What else the objective measures: sums by name, reported as means over `count`.
    pub metrics: Vec<(&'static str, f64)>,
}

impl Loss {
    /// The mean over all that counts.
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    /// Adds another micro-batch.
    pub fn add(&mut self, other: Loss) {
        self.sum += other.sum;
        self.count += other.count;
        for (name, sum) in other.metrics {
            match self.metrics.iter_mut().find(|(own, _)| *own == name) {
                Some((_, own)) => *own += sum,
                None => self.metrics.push((name, sum)),
            }
        }
    }
}

/// A loss over packed rows, and its gradient.
pub trait Objective: std::fmt::Debug + Send + Sync {
    /// Consecutive rows that make one example; they are always in one micro-batch. A preference has two.
    fn rows_per_example(&self) -> usize {
        1
    }

    /// The loss of a micro-batch. `x` `[T, D]` is the residual stream after the last layer. With `pass` an objective may run
    /// the model again, for example without its adapter as a reference.
    fn loss(&self, model: &Decoder, pass: &Pass<'_>, batch: &PackedBatch, x: &Tensor) -> Result<Loss>;

    /// The loss, and the gradient `[T, D]` of `scale * sum` in `x`. Gradients of a trained head and of the last norm are
    /// added to `grads`.
    fn forward_backward(
        &self,
        model: &Decoder,
        pass: &Pass<'_>,
        batch: &PackedBatch,
        x: &Tensor,
        scale: f32,
        grads: &mut Gradients,
    ) -> Result<(Loss, Tensor)>;
}

/// The loss of batches together, by the code that trains: the true mean over what counts, however they were packed.
pub fn evaluate(
    objective: &dyn Objective,
    model: &Decoder,
    pass: &Pass<'_>,
    batches: impl IntoIterator<Item = Result<PackedBatch>>,
) -> Result<Loss> {
    let mut total = Loss::default();
    for batch in batches {
        let batch = batch?;
        let x = model.forward(pass, (&batch).into())?;
        total.add(objective.loss(model, pass, &batch, &x)?);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_entry() {
        for &kind in ObjectiveKind::ALL {
            assert_eq!(OBJECTIVES.iter().filter(|entry| entry.kind == kind).count(), 1, "{kind}");
        }
    }
}
