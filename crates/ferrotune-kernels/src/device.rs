//! Where tensors live and ops run. A device is made once and passed by hand; there is no default one.

use std::sync::Arc;

use crate::cpu::{Cpu, Isa, SharedMut, row_grain};
use crate::dtype::{DType, Precision};
use crate::error::Result;
use crate::tensor::{Pool, Tensor};
use crate::threads::Threads;

/// Where an op computes, and how precisely.
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'a> {
    /// Where.
    pub dev: &'a Device,
    /// The column of the precision table.
    pub precision: Precision,
}

/// A place to compute.
#[derive(Debug, Clone)]
pub enum Device {
    /// Plain loops on one thread, in the order of the formulas: what the tests trust.
    Reference(Arc<Pool>),
    /// Vector kernels on several threads.
    Cpu(Cpu),
}

impl Device {
    /// The plain loops.
    pub fn reference() -> Self {
        Device::Reference(Arc::default())
    }

    /// The CPU with so many threads and this instruction set, or all and the best that the machine has.
    ///
    /// # Errors
    /// The instruction set is not one of this machine, or there is no room for the threads.
    pub fn cpu(threads: Option<usize>, isa: Option<Isa>) -> Result<Self> {
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
        Ok(Device::Cpu(Cpu::new(threads, isa.unwrap_or_else(Isa::detect))?))
    }

    /// This device in a precision.
    pub fn ctx(&self, precision: Precision) -> Ctx<'_> {
        Ctx { dev: self, precision }
    }

    /// The pool that this device's tensors come from.
    pub fn pool(&self) -> &Arc<Pool> {
        match self {
            Device::Reference(pool) => pool,
            Device::Cpu(cpu) => cpu.pool(),
        }
    }

    /// The threads that work for it; the plain loops have their caller alone.
    pub fn threads(&self) -> Threads {
        match self {
            Device::Reference(_) => Threads::one(),
            Device::Cpu(cpu) => cpu.threads().clone(),
        }
    }

    /// A matrix with unspecified content, for an op that writes all of it.
    pub fn uninit(&self, rows: usize, cols: usize, dtype: DType) -> Tensor {
        Tensor::uninit(self.pool(), rows, cols, dtype)
    }

    /// An f32 matrix with unspecified content.
    pub fn empty(&self, rows: usize, cols: usize) -> Tensor {
        self.uninit(rows, cols, DType::F32)
    }

    /// An f32 matrix of zeros.
    pub fn zeros(&self, rows: usize, cols: usize) -> Tensor {
        let mut t = self.empty(rows, cols);
        self.fill_rows(&mut t, |_, row| row.fill(0.0));
        t
    }

    /// Writes every row of an f32 matrix by its number, on all threads: memory that is new lies where it is first written,
    /// so a matrix begins its life on the nodes of those who will work on it.
    pub fn fill_rows(&self, t: &mut Tensor, fill: impl Fn(usize, &mut [f32]) + Sync) {
        let (rows, cols) = (t.rows(), t.cols());
        let fill_all = |first: usize, values: &mut [f32]| {
            values.chunks_exact_mut(cols.max(1)).enumerate().for_each(|(i, row)| fill(first + i, row));
        };
        match self {
            Device::Reference(_) => fill_all(0, t.host_f32_mut()),
            Device::Cpu(cpu) => {
                let values = SharedMut::new(t.host_f32_mut());
                cpu.threads().run_ranges(rows, row_grain(cols), |range| {
                    // SAFETY: ranges of rows are disjoint.
                    fill_all(range.start, unsafe { values.slice(range.start * cols..range.end * cols) });
                });
            }
        }
    }

    /// An f32 matrix with the given row-major elements; panics if their number is not `rows * cols`.
    pub fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        let mut t = self.empty(rows, cols);
        t.host_f32_mut().copy_from_slice(values);
        t
    }
}
