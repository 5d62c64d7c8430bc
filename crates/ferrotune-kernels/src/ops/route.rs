//! Which experts a token goes to: the `k` largest of `softmax(logits)`, and how much of each.
//!
//! A row has as many logits as there are experts, so this costs nothing beside the experts themselves and has one
//! version for all devices, in host memory.

use super::expect;
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

/// Sends every row of `logits` `[T, E]` to `k` experts. With `normalise` the weights of a row are divided by their sum.
///
/// Of equal logits the first expert's counts as the larger.
pub fn forward(logits: &Tensor, k: usize, normalise: bool) -> Result<Routes> {
    let experts = logits.cols();
    if k == 0 || k > experts {
        let found = format!("{k} of {experts}");
        return Err(Error::Unsupported { what: "experts of a token", found, allowed: "1 to all" });
    }
    let mut routes = Routes { rows: vec![Vec::new(); experts], weights: vec![Vec::new(); experts] };
    for (t, row) in logits.host_f32().chunks_exact(experts).enumerate() {
        let p = softmax(row);
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_unstable_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        let chosen = &mut order[..k];
        chosen.sort_unstable();
        let total = if normalise { chosen.iter().map(|e| p[*e]).sum() } else { 1.0 };
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
    normalise: bool,
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
        let p = softmax(row);
        let mut chosen = Vec::new();
        for (e, done) in done.iter_mut().enumerate() {
            if routes.rows[e].get(*done) == Some(&(t as u32)) {
                chosen.push((e, dweights[e][*done] as f64));
                *done += 1;
            }
        }
        if normalise {
            // w = p / sum p:  dp = (dw - sum w dw) / sum p
            let total: f64 = chosen.iter().map(|(e, _)| p[*e]).sum();
            let mean: f64 = chosen.iter().map(|(e, d)| p[*e] / total * d).sum();
            chosen.iter_mut().for_each(|(_, d)| *d = (*d - mean) / total);
        }
        let mean: f64 = chosen.iter().map(|(e, d)| p[*e] * d).sum();
        for (e, out) in out.iter_mut().enumerate() {
            let d = chosen.iter().find(|(c, _)| *c == e).map_or(0.0, |(_, d)| *d);
            *out = (p[e] * (d - mean)) as f32;
        }
    }
    Ok(out)
}

/// The probabilities of all experts for a row.
fn softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let mut p: Vec<f64> = row.iter().map(|v| (*v as f64 - top).exp()).collect();
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|v| *v /= total);
    p
}
