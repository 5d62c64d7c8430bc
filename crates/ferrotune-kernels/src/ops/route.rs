//! Which experts a token goes to: the `k` largest of `softmax(logits)`, and how much of each.
//!
//! A row has as many logits as there are experts, so this costs nothing beside the experts themselves and has one
//! version for all devices.

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
    for (t, row) in logits.f32().chunks_exact(experts).enumerate() {
        let (chosen, p) = choose(row, k);
        let total = if normalise { chosen.iter().map(|e| p[*e]).sum() } else { 1.0 };
        for e in chosen {
            routes.rows[e].push(t as u32);
            routes.weights[e].push((p[e] / total) as f32);
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
    // dL/dp of the chosen probabilities, row by row.
    let mut chosen: Vec<Vec<(usize, f64)>> = vec![Vec::new(); logits.rows()];
    for (e, (rows, d)) in routes.rows.iter().zip(dweights).enumerate() {
        for (t, d) in rows.iter().zip(d) {
            chosen[*t as usize].push((e, *d as f64));
        }
    }
    let rows = logits.f32().chunks_exact(experts).zip(out.f32_mut().chunks_exact_mut(experts));
    for ((row, out), mut chosen) in rows.zip(chosen) {
        let p = softmax(row);
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

fn softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let exps: Vec<f64> = row.iter().map(|v| (*v as f64 - top).exp()).collect();
    let total: f64 = exps.iter().sum();
    exps.into_iter().map(|v| v / total).collect()
}

/// The chosen experts in order, and all probabilities.
fn choose(row: &[f32], k: usize) -> (Vec<usize>, Vec<f64>) {
    let p = softmax(row);
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
    order.truncate(k);
    order.sort_unstable();
    (order, p)
}
