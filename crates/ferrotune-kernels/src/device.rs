//! Where tensors live and ops run. A device is made once and passed by hand; there is no default one.

use std::sync::Arc;

use crate::cpu::Cpu;
use crate::dtype::DType;
use crate::tensor::{Pool, Tensor};

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

    /// The pool that this device's tensors come from.
    pub fn pool(&self) -> &Arc<Pool> {
        match self {
            Device::Reference(pool) => pool,
            Device::Cpu(cpu) => cpu.pool(),
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
        t.f32_mut().fill(0.0);
        t
    }

    /// An f32 matrix with the given row-major elements; panics if their number is not `rows * cols`.
    pub fn tensor(&self, rows: usize, cols: usize, values: &[f32]) -> Tensor {
        let mut t = self.empty(rows, cols);
        t.f32_mut().copy_from_slice(values);
        t
    }
}
