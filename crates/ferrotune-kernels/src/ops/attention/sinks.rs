//! Attention sinks: one further logit for each head in the softmax, whose value is 0 (gpt-oss).
//!
//! With `s` the sink and `l` the log-sum-exp of the scores, the sum becomes `l' = log(e^l + e^s)` and the output `e^(l - l') O`.
//! So a sink is added to the attention without one, and what the backward makes of `l'` and of the new output are the right
//! gradients of Q, K and V. That of the sink is `-e^(s - l') dO . O`, summed over the tokens.

use super::expect;
use crate::cpu::per_isa;
use crate::cpu::{SharedMut, row_grain};
use crate::device::Device;
use crate::error::Result;
use crate::tensor::Tensor;

/// `log(e^l + e^s)`, and `e^(l - that)`.
fn with_sink(l: f32, s: f32) -> (f32, f32) {
    let (l, s) = (l as f64, s as f64);
    let top = l.max(s);
    let sum = top + ((l - top).exp() + (s - top).exp()).ln();
    (sum as f32, (l - sum).exp() as f32)
}

per_isa! {
    fn scale(x: &mut [f32], by: f32) {
        for x in x {
            *x *= by;
        }
    }
}

/// Adds sinks `[1, H]` to what [`forward`](super::forward) gave: `O` `[T, H dim]` and the log-sum-exp `[H, T]`.
pub fn add_sinks(dev: &Device, o: &mut Tensor, lse: &mut Tensor, sinks: &Tensor) -> Result<()> {
    let (heads, tokens) = (sinks.cols(), o.rows());
    expect("sinks", "sinks", sinks, [1, heads])?;
    expect("sinks", "lse", lse, [heads, tokens])?;
    expect("sinks", "o", o, [tokens, o.cols() / heads * heads])?;
    let (width, dim) = (o.cols(), o.cols() / heads);
    let sinks = sinks.host_f32();
    let (o, lse) = (SharedMut::new(o.host_f32_mut()), SharedMut::new(lse.host_f32_mut()));
    let isa = match dev {
        Device::Reference(_) => crate::cpu::Isa::Portable,
        Device::Cpu(cpu) => cpu.isa(),
    };
    dev.threads().run_ranges(tokens, row_grain(width), |rows| {
        for t in rows {
            // SAFETY: every row belongs to one task.
            let row = unsafe { o.slice(t * width..(t + 1) * width) };
            for (h, head) in row.chunks_exact_mut(dim).enumerate() {
                // SAFETY: as above, an element of each head's sums.
                let sum = &mut unsafe { lse.slice(h * tokens + t..h * tokens + t + 1) }[0];
                let (with, share) = with_sink(*sum, sinks[h]);
                *sum = with;
                scale(isa, head, share);
            }
        }
    });
    Ok(())
}

/// Adds the gradient of the sinks to `d_sinks`, for outputs and sums with them and the gradient of the output.
pub fn sinks_backward(
    sinks: &Tensor,
    o: &Tensor,
    lse: &Tensor,
    d_o: &Tensor,
    d_sinks: &mut Tensor,
) -> Result<()> {
    let (heads, tokens) = (sinks.cols(), o.rows());
    expect("sinks", "d_sinks", d_sinks, [1, heads])?;
    expect("sinks", "lse", lse, [heads, tokens])?;
    expect("sinks", "do", d_o, o.shape())?;
    let dim = o.cols() / heads;
    let (o, d_o) = (o.to_vec(), d_o.to_vec());
    for (h, sum) in d_sinks.host_f32_mut().iter_mut().enumerate() {
        let s = sinks.host_f32()[h] as f64;
        let mut total = 0.0f64;
        for t in 0..tokens {
            let at = (t * heads + h) * dim;
            let both = o[at..at + dim].iter().zip(&d_o[at..at + dim]);
            let dot: f64 = both.map(|(a, b)| *a as f64 * *b as f64).sum();
            total -= (s - lse.host_f32()[h * tokens + t] as f64).exp() * dot;
        }
        *sum += total as f32;
    }
    Ok(())
}
