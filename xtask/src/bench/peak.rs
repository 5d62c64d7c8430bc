//! What the CPU reaches at best with the program's own micro-kernels: the measure for shares of the peak.

use ferrotune_kernels::Precision;
use ferrotune_kernels::cpu::speed::products_per_second;
use ferrotune_kernels::cpu::{Cpu, Isa};

use crate::golden::Failure;

/// Rows, outputs and inputs of a layer and of the head of SmolLM2-135M.
const SIZES: [[usize; 3]; 2] = [[1024, 1536, 576], [1024, 49152, 576]];
/// For each of them.
const SECONDS: f64 = 1.5;

/// Operations per second of products.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    f32: f64,
    bf16: f64,
}

impl Peak {
    /// Measures on an instruction set.
    pub(super) fn measure(threads: usize, isa: Isa) -> Result<Self, Failure> {
        let cpu = Cpu::new(threads, isa)?;
        let rate = |precision, size: &[usize; 3]| products_per_second(&cpu, precision, *size, SECONDS);
        let best = |precision| SIZES.iter().map(|size| rate(precision, size)).fold(0.0, f64::max);
        Ok(Peak { f32: best(Precision::F32), bf16: best(Precision::Bf16) })
    }

    /// The peak of a precision's products.
    pub(super) fn of(&self, precision: &str) -> f64 {
        if precision == "f32" { self.f32 } else { self.bf16 }
    }
}
