//! What this CPU reaches at best in matrix products: the measure of predictions and of shares of the peak.

use std::time::Instant;

use super::Cpu;
use super::gemm::{Job, Mat, Out, Term, gemm, left};
use crate::dtype::Precision;
use crate::quant::Weight;

/// Operations per second of `X Wt` for `m` rows of `k` inputs and `n` outputs: the best within `seconds`, as whatever else
/// the machine does only makes one slower.
pub fn products_per_second(cpu: &Cpu, precision: Precision, [m, n, k]: [usize; 3], seconds: f64) -> f64 {
    let x = vec![0.5f32; m * k];
    let w = Weight::from_f32(n, k, &vec![0.25; n * k]);
    let mut out = vec![0.0; m * n];
    let a = left(cpu, precision, Mat::F32(&x, k), m, k, false);
    let mut best = f64::MAX;
    let begin = Instant::now();
    while best == f64::MAX || begin.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        let terms = &[Term { a: &a, b: Mat::Weight(&w), transposed: false }];
        gemm(cpu, precision, &[Job::new(&Out::from(&mut out[..]), n, terms)]);
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best
}
