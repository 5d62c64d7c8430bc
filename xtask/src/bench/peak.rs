//! What the CPU reaches at best with the program's own micro-kernels: the measure for shares of the peak.

use std::time::Instant;

use ferrotune_kernels::cpu::gemm::{Job, Mat, Out, Term, gemm, left};
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::{Precision, Weight};

use crate::golden::Failure;

/// Rows, outputs and inputs of a layer and of the head of SmolLM2-135M.
const SIZES: [[usize; 3]; 2] = [[1024, 1536, 576], [1024, 49152, 576]];
/// The best product within this time counts: whatever else the machine does only makes one slower.
const SECONDS: f64 = 1.5;

/// Operations per second of products.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    f32: f64,
    bf16: f64,
}

impl Peak {
    /// Measures on the best instruction set of this CPU.
    pub(super) fn measure(threads: usize) -> Result<Self, Failure> {
        let cpu = Cpu::new(threads, Isa::detect())?;
        let best = |precision| SIZES.iter().map(|size| rate(&cpu, precision, *size)).fold(0.0, f64::max);
        Ok(Peak { f32: best(Precision::F32), bf16: best(Precision::Bf16) })
    }

    /// The peak of a precision's products.
    pub(super) fn of(&self, precision: &str) -> f64 {
        if precision == "f32" { self.f32 } else { self.bf16 }
    }
}

fn rate(cpu: &Cpu, precision: Precision, [m, n, k]: [usize; 3]) -> f64 {
    let x = vec![0.5f32; m * k];
    let w = Weight::from_f32(n, k, &vec![0.25; n * k]);
    let mut out = vec![0.0; m * n];
    let a = left(cpu, precision, Mat::F32(&x, k), m, k, false, 1.0);
    let mut best = f64::MAX;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < SECONDS {
        let start = Instant::now();
        let terms = vec![Term { a: &a, b: Mat::Weight(&w), transposed: false }];
        gemm(cpu, precision, &[Job::new(&Out::from(&mut out[..]), n, terms)]);
        best = best.min(start.elapsed().as_secs_f64());
    }
    2.0 * (m * n * k) as f64 / best
}
