//! Which experts a token goes to: those with the largest scores, and how much of each.
//!
//! A row has as many logits as there are experts, so this costs nothing beside the experts themselves and has one
//! version for all devices, in host memory.

use super::expect;
use super::scalar::sigmoid;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Tokens by expert.
#[derive(Debug, Clone, PartialEq)]
pub struct Routes {
    /// Rows that go to each expert, in order.
    pub rows: Vec<Vec<u32>>,
    /// The weight of each of them.
    pub weights: Vec<Vec<f32>>,
}

/// What makes a score of a logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// `softmax` over all experts.
    Softmax,
    /// `sigmoid` of each by itself.
    Sigmoid,
}

/// How experts are chosen and weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Experts of a token.
    pub k: usize,
    /// Scores, which are the weights of the chosen ones.
    pub score: Score,
    /// Whether the weights of a token are divided by their sum.
    pub normalise: bool,
    /// What is added to the scores when experts are chosen, and not to the weights.
    pub correction: Option<Vec<f32>>,
}

/// Sends every row of `logits` `[T, E]` to some experts. Of equal scores the first expert's counts as the larger.
pub fn forward(logits: &Tensor, choice: &Choice) -> Result<Routes> {
    let (experts, k) = (logits.cols(), choice.k);
    if let Some(found) = choice.correction.as_ref().map(Vec::len).filter(|found| *found != experts) {
        let found = format!("{found} for {experts} experts");
        return Err(Error::Unsupported { what: "corrections of scores", found, allowed: "one for each" });
    }
    if k == 0 || k > experts {
        let found = format!("{k} of {experts}");
        return Err(Error::Unsupported { what: "experts of a token", found, allowed: "1 to all" });
    }
    let mut routes = Routes { rows: vec![Vec::new(); experts], weights: vec![Vec::new(); experts] };
    for (t, row) in logits.host_f32().chunks_exact(experts).enumerate() {
        let p = choice.score.of(row);
        let rank = |e: usize| match &choice.correction {
            Some(correction) => p[e] + correction[e] as f64,
            None => row[e] as f64,
        };
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_unstable_by(|a, b| rank(*b).total_cmp(&rank(*a)).then(a.cmp(b)));
        let chosen = &mut order[..k];
        chosen.sort_unstable();
        let total = if choice.normalise { chosen.iter().map(|e| p[*e]).sum() } else { 1.0 };
        for e in chosen {
            routes.rows[*e].push(t as u32);
            routes.weights[*e].push((p[*e] / total) as f32);
        }
    }
    Ok(routes)
}

/// The gradient of the logits, for the gradient of each weight in the order of [`Routes::weights`].
pub fn backward(
    dev: &Device,
    logits: &Tensor,
    choice: &Choice,
    routes: &Routes,
    dweights: &[Vec<f32>],
) -> Result<Tensor> {
    let experts = logits.cols();
    expect("route", "logits", logits, [logits.rows(), routes.rows.len()])?;
    let mut out = dev.zeros(logits.rows(), experts);
    // How many of each expert's rows are done; dL/dp of a row's chosen probabilities.
    let mut done = vec![0; experts];
    let rows = logits.host_f32().chunks_exact(experts).zip(out.host_f32_mut().chunks_exact_mut(experts));
    for (t, (row, out)) in rows.enumerate() {
        let p = choice.score.of(row);
        let mut chosen = Vec::new();
        for (e, done) in done.iter_mut().enumerate() {
            if routes.rows[e].get(*done) == Some(&(t as u32)) {
                chosen.push((e, dweights[e][*done] as f64));
                *done += 1;
            }
        }
        if choice.normalise {
            // w = p / sum p:  dp = (dw - sum w dw) / sum p
            let total: f64 = chosen.iter().map(|(e, _)| p[*e]).sum();
            let mean: f64 = chosen.iter().map(|(e, d)| p[*e] / total * d).sum();
            chosen.iter_mut().for_each(|(_, d)| *d = (*d - mean) / total);
        }
        let mean: f64 = chosen.iter().map(|(e, d)| p[*e] * d).sum();
        for (e, out) in out.iter_mut().enumerate() {
            let d = chosen.iter().find(|(c, _)| *c == e).map_or(0.0, |(_, d)| *d);
            *out = match choice.score {
                Score::Softmax => p[e] * (d - mean),
                Score::Sigmoid => p[e] * (1.0 - p[e]) * d,
            } as f32;
        }
    }
    Ok(out)
}

impl Score {
    /// The scores of all experts for a row.
    fn of(self, row: &[f32]) -> Vec<f64> {
        match self {
            Score::Softmax => softmax(row),
            Score::Sigmoid => row.iter().map(|v| sigmoid(*v as f64)).collect(),
        }
    }
}

/// The weights of an expert that all tokens go to, for its gate's `logits` `[T, 1]`.
pub fn gate(logits: &Tensor) -> Vec<f32> {
    logits.host_f32().iter().map(|v| sigmoid(*v as f64) as f32).collect()
}

/// The gradient of the logits of [`gate`], for that of the weights.
pub fn gate_backward(dev: &Device, logits: &Tensor, dweights: &[f32]) -> Result<Tensor> {
    expect("gate", "logits", logits, [dweights.len(), 1])?;
    let d = |(v, d): (&f32, &f32)| {
        let p = sigmoid(*v as f64);
        (p * (1.0 - p) * *d as f64) as f32
    };
    let values: Vec<f32> = logits.host_f32().iter().zip(dweights).map(d).collect();
    Ok(dev.tensor(dweights.len(), 1, &values))
}

/// The probabilities of all experts for a row.
fn softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let mut p: Vec<f64> = row.iter().map(|v| (*v as f64 - top).exp()).collect();
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|v| *v /= total);
    p
}
