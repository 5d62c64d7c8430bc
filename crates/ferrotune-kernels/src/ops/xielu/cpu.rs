//! Rows split over the threads, vectorised within them.

use super::Curve;
use crate::cpu::math::{LANES, exp};
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, per_isa, row_grain};
use crate::tensor::Tensor;

/// [`Curve`] in f32.
#[derive(Clone, Copy)]
struct Narrow {
    p: f32,
    n: f32,
    beta: f32,
    eps: f32,
}

impl From<Curve> for Narrow {
    fn from(c: Curve) -> Self {
        Narrow { p: c.p as f32, n: c.n as f32, beta: c.beta as f32, eps: c.eps as f32 }
    }
}

/// `e^x - 1 - x` for `x <= 0`. Near 0 the difference would lose its digits: the series instead.
#[inline(always)]
fn beyond_line(x: f32) -> f32 {
    let series = x
        * x
        * (0.5
            + x * (1.0 / 6.0
                + x * (1.0 / 24.0
                    + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5_040.0 + x / 40_320.0))))));
    if x > -0.5 { series } else { exp(x) - 1.0 - x }
}

impl Narrow {
    /// `e^min(x, eps) - 1 - x`.
    #[inline(always)]
    fn below(self, x: f32) -> f32 {
        let bent = if x < self.eps { x } else { self.eps };
        beyond_line(bent) + (bent - x)
    }
}

per_isa! {
    fn values(curve: Narrow, x: &mut [f32]) {
        for x in x {
            let bent = if *x > 0.0 { curve.p * *x * *x } else { curve.n * curve.below(*x) };
            *x = curve.beta * *x + bent;
        }
    }
}

per_isa! {
    /// The gradients of a row in the place of its values, and its sums.
    fn gradients(curve: Narrow, x: &mut [f32], dy: &[f32]) -> [f64; 2] {
        let (mut above, mut below) = ([0.0f32; LANES], [0.0f32; LANES]);
        let lanes = |at: usize, x: &mut [f32], dy: &[f32], above: &mut [f32; LANES], below: &mut [f32; LANES]| {
            for l in 0..x.len() {
                let (v, d) = (x[l], dy[at + l]);
                let bent = if v <= curve.eps { exp(v) } else { 0.0 };
                let slope = if v > 0.0 { 2.0 * curve.p * v } else { curve.n * (bent - 1.0) };
                above[l] += if v > 0.0 { d * v * v } else { 0.0 };
                below[l] += if v > 0.0 { 0.0 } else { d * curve.below(v) };
                x[l] = d * (curve.beta + slope);
            }
        };
        let whole = x.len() / LANES * LANES;
        let (chunks, rest) = x.split_at_mut(whole);
        for (i, chunk) in chunks.chunks_exact_mut(LANES).enumerate() {
            lanes(i * LANES, chunk, dy, &mut above, &mut below);
        }
        lanes(whole, rest, dy, &mut above, &mut below);
        [above, below].map(|lanes| lanes.iter().map(|v| *v as f64).sum())
    }
}

pub(super) fn forward(cpu: &Cpu, x: &Tensor, curve: Curve, y: &mut Tensor) {
    let (isa, cols, from) = (cpu.isa(), x.cols(), Mat::from(x));
    let y = Out::from(y);
    cpu.threads().run_ranges(x.rows(), row_grain(cols), |rows| {
        let mut buffer = cpu.pool().take(2 * cols);
        let (row, spare) = buffer.f32_mut()[..2 * cols].split_at_mut(cols);
        for t in rows {
            from.read(isa, t, 0, row);
            values(isa, curve.into(), row);
            // SAFETY: every row belongs to one task.
            unsafe { y.write(isa, t * cols, cols, spare, |out| out.copy_from_slice(row)) };
        }
    });
}

/// The sums of `dy` times what `p` and `n` are multiplied by: of each row, then of the rows in their order.
pub(super) fn backward(cpu: &Cpu, x: &Tensor, curve: Curve, dy: &[f32], dx: &mut Tensor) -> [f64; 2] {
    let (isa, cols, from) = (cpu.isa(), x.cols(), Mat::from(x));
    let dx = Out::from(dx);
    let mut sums = vec![[0.0f64; 2]; x.rows()];
    let all = SharedMut::new(&mut sums);
    cpu.threads().run_ranges(x.rows(), row_grain(cols), |rows| {
        let mut buffer = cpu.pool().take(2 * cols);
        let (row, spare) = buffer.f32_mut()[..2 * cols].split_at_mut(cols);
        for t in rows {
            from.read(isa, t, 0, row);
            let sum = gradients(isa, curve.into(), row, &dy[t * cols..][..cols]);
            // SAFETY: every row belongs to one task.
            unsafe {
                all.slice(t..t + 1)[0] = sum;
                dx.write(isa, t * cols, cols, spare, |out| out.copy_from_slice(row));
            }
        }
    });
    sums.into_iter().fold([0.0; 2], |[a, b], [c, d]| [a + c, b + d])
}
