//! How a norm divides the columns of a row, and which part of its weight belongs to which group.

use super::expect;
use crate::cpu::Cpu;
use crate::cpu::words::Mat;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Groups of `width` columns. One weight serves all of them, or each has its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    pub(super) width: usize,
    /// Groups of a row.
    pub(super) count: usize,
    /// Groups that the weight covers: 1 or `count`.
    pub(super) weights: usize,
}

impl Groups {
    pub(super) fn new(op: &'static str, x: &Tensor, w: &Tensor, width: usize) -> Result<Self> {
        if width == 0 || !x.cols().is_multiple_of(width) {
            let found = format!("{width} with {} columns", x.cols());
            return Err(Error::Unsupported {
                what: "width of a norm",
                found,
                allowed: "a part of the columns",
            });
        }
        let count = x.cols() / width;
        let weights = if w.cols() == x.cols() { count } else { 1 };
        expect(op, "w", w, [1, width * weights])?;
        Ok(Groups { width, count, weights })
    }

    /// Calls `f(number, start of its weight, its values, as many to write on)` for every group of every row, the rows
    /// split over the threads.
    pub(super) fn each(self, cpu: &Cpu, x: &Tensor, f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync) {
        let (d, mat) = (self.width, Mat::from(x));
        cpu.threads().run_ranges(x.rows() * self.count, 16, |range| {
            let mut buffer = cpu.pool().take(2 * d);
            let (values, scratch) = buffer.f32_mut()[..2 * d].split_at_mut(d);
            for i in range {
                let (t, g) = (i / self.count, i % self.count);
                mat.read(cpu.isa(), t, g * d, values);
                f(i, self.weight(g), values, scratch);
            }
        });
    }

    /// Where the weight of group `g` begins.
    pub(super) fn weight(&self, g: usize) -> usize {
        g % self.weights * self.width
    }
}
