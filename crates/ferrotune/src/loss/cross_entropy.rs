//! Cross-entropy of the supervised rows, in chunks: logits never exist as a whole, and rows without a target never
//! reach the final norm or the head.

use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::softmax_xent::{self, Logits};
use ferrotune_kernels::{DType, Device, Tensor};

use crate::Result;
use crate::arch::architecture::Architecture;
use crate::model::{Decoder, Gradients, Pass};

/// What the rows of a micro-batch predict.
#[derive(Debug, Clone, Copy)]
pub struct TokenTargets<'a> {
    /// The token that each row predicts; negative for none.
    pub ids: &'a [i32],
    /// The factor of each row's loss, of either sign; all are 1 if empty.
    pub weights: &'a [f32],
}

impl<'a> TokenTargets<'a> {
    /// Targets that all count once.
    pub fn once(ids: &'a [i32]) -> Self {
        TokenTargets { ids, weights: &[] }
    }

    fn weight(&self, row: u32) -> f32 {
        self.weights.get(row as usize).copied().unwrap_or(1.0)
    }
}

/// Rows of a chunk: 32 MiB of f32 logits, between 16 and 512 rows.
pub(crate) fn chunk_rows(vocab: usize) -> usize {
    (8 * 1024 * 1024 / vocab.max(1)).clamp(16, 512)
}

/// Bytes that the loss takes while it runs: a chunk of logits, whose gradient takes their place, and the residual stream
/// of all tokens with its gradient.
pub(crate) fn workspace(a: &Architecture, tokens: usize) -> usize {
    let chunk = chunk_rows(a.vocab).min(tokens);
    chunk * (a.vocab * 4 + 4 * a.hidden * 4) + 3 * a.hidden * 4 * tokens
}

/// `(row, target)` of every supervised row; `targets[t]` is the token that row `t` predicts, negative for none.
fn supervised(targets: &[i32]) -> (Vec<u32>, Vec<u32>) {
    let rows = targets.iter().enumerate().filter(|(_, t)| **t >= 0);
    rows.map(|(i, t)| (i as u32, *t as u32)).unzip()
}

/// The losses of the supervised rows of `x` (the residual stream after the last layer), in order.
pub fn token_losses(model: &Decoder, pass: &Pass<'_>, x: &Tensor, targets: &[i32]) -> Result<Vec<f32>> {
    let (rows, ids) = supervised(targets);
    losses_of(model, pass, x, &rows, &ids)
}

/// The losses of these rows for these targets.
fn losses_of(model: &Decoder, pass: &Pass<'_>, x: &Tensor, rows: &[u32], ids: &[u32]) -> Result<Vec<f32>> {
    let mut losses = Vec::with_capacity(rows.len());
    let step = chunk_rows(model.arch.vocab);
    for (rows, ids) in rows.chunks(step).zip(ids.chunks(step)) {
        let logits = model.logits(pass, x, rows)?;
        losses.extend(softmax_xent::forward(pass.dev, logits, ids, Logits::default())?);
    }
    Ok(losses)
}

/// The weighted sum of the losses of all rows of `x`.
pub fn sum(model: &Decoder, pass: &Pass<'_>, x: &Tensor, targets: TokenTargets<'_>) -> Result<f64> {
    let (rows, ids) = supervised(targets.ids);
    Ok(weighted(&losses_of(model, pass, x, &rows, &ids)?, &rows, targets))
}

fn weighted(losses: &[f32], rows: &[u32], targets: TokenTargets<'_>) -> f64 {
    losses.iter().zip(rows).map(|(loss, row)| targets.weight(*row) as f64 * *loss as f64).sum()
}

/// The weighted sum of the losses, and the gradient of `scale * sum` in `x`. Gradients of a trained head and norm are added to `grads`.
pub fn forward_backward(
    model: &Decoder,
    pass: &Pass<'_>,
    x: &Tensor,
    targets: TokenTargets<'_>,
    scale: f32,
    grads: &mut Gradients,
) -> Result<(f64, Tensor)> {
    let dev: &Device = pass.dev;
    let (rows, ids) = supervised(targets.ids);
    let mut dx = dev.zeros(x.rows(), x.cols());
    let mut sum = 0.0;
    let step = chunk_rows(model.arch.vocab);
    for (rows, ids) in rows.chunks(step).zip(ids.chunks(step)) {
        let xs = elementwise::gather(dev, x, rows)?;
        let n = model.norm.forward(pass, &xs, pass.precision.saved())?;
        let ([outputs], h) = pass.linears(&n, [model.head()], DType::F32)?;
        let (how, dtype) = (model.arch.logits, pass.precision.saved());
        let scales: Vec<f32> = rows.iter().map(|row| scale * targets.weight(*row)).collect();
        let (losses, dz) = softmax_xent::forward_backward(dev, outputs, ids, how, &scales, dtype)?;
        sum += weighted(&losses, rows, targets);
        let dn = pass.linears_backward(&n, h.as_ref(), [model.head()], [&dz], true, grads)?;
        drop(dz);
        let mut dxs = dev.zeros(xs.rows(), xs.cols());
        if let Some(dn) = dn {
            model.norm.backward(pass, &xs, &dn, &mut dxs, grads)?;
        }
        elementwise::scatter(dev, &dxs, rows, &mut dx)?;
    }
    Ok((sum, dx))
}
