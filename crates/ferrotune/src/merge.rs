//! `W' = W + s B A`: an adapter folded into its base.

use ferrotune_kernels::quant::Weight;

use crate::lora::Adapter;
use crate::model::Decoder;
use crate::model::linear::{Base, LinearLayer};

/// The values of a linear's weight with the adapter's branch folded in, row-major f32.
///
/// The base is what the adapter was trained beside: decoded from its blocks if it is quantized. Products and sums are
/// f64, so the result is rounded once.
pub fn merged_weight(linear: &LinearLayer, adapter: Option<&Adapter>) -> Vec<f32> {
    let Base::Frozen(weight) = &linear.base else { return Vec::new() };
    let (n, k) = (linear.rows, linear.cols);
    let mut out = vec![0.0f32; n * k];
    for (row, out) in out.chunks_exact_mut(k).enumerate() {
        weight.decode(row, 0, out);
    }
    let branch = adapter.and_then(|a| a.branches.get(linear.id).copied().flatten().map(|b| (a, b)));
    let Some((adapter, branch)) = branch else { return out };
    let (a, b) = (adapter.params.get(branch.a), adapter.params.get(branch.b));
    let r = a.rows();
    let mut sum = vec![0.0f64; k];
    for (row, out) in out.chunks_exact_mut(k).enumerate() {
        sum.fill(0.0);
        for (q, factor) in b.f32()[row * r..][..r].iter().enumerate() {
            for (s, a) in sum.iter_mut().zip(&a.f32()[q * k..][..k]) {
                *s += *factor as f64 * *a as f64;
            }
        }
        for (o, s) in out.iter_mut().zip(&sum) {
            *o = (*o as f64 + branch.scale as f64 * s) as f32;
        }
    }
    out
}

/// Replaces every targeted weight of the model by its merged values in f32.
pub fn merge_in_place(model: &mut Decoder, adapter: &Adapter) {
    for linear in model.linears_mut() {
        if adapter.branches.get(linear.id).copied().flatten().is_some() {
            let merged = merged_weight(linear, Some(adapter));
            linear.base = Base::Frozen(Weight::from_f32(linear.rows, linear.cols, &merged));
        }
    }
}
