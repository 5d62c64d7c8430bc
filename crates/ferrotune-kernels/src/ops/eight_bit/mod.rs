//! Activations that wait for the backward pass in 8 bits: blocks of 64 values, each a whole number from -127 to 127 times
//! the block's scale, which is bf16. A little more than a byte for a value.
//!
//! The largest value of a block is off by half a step at most, 1/254 of it, as is every other one. Nothing else in a
//! pass is in this form: a forward pass never reads it.

mod cpu;
mod reference;

use half::bf16;

use crate::cpu::words::round_bf16;
use crate::device::Device;
use crate::dtype::DType;
use crate::tensor::{Buffer, Tensor};

/// Values that share a scale; the last block of a tensor may be shorter.
pub const BLOCK: usize = 64;

/// A matrix `[rows, cols]` in blocks of 8-bit values.
#[derive(Debug)]
pub struct Packed {
    shape: [usize; 2],
    /// The type that it had and gets again.
    dtype: DType,
    codes: Buffer,
    scales: Buffer,
}

impl Packed {
    /// Bytes that `len` values take.
    pub fn nbytes(len: usize) -> usize {
        len + 2 * len.div_ceil(BLOCK)
    }

    fn len(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    fn parts(&self) -> (&[i8], &[bf16]) {
        let n = self.len();
        (&self.codes.i8()[..n], &self.scales.bf16()[..n.div_ceil(BLOCK)])
    }
}

/// `x` (f32 or bf16) in 8 bits.
pub fn pack(dev: &Device, x: &Tensor) -> Packed {
    let blocks = x.len().div_ceil(BLOCK);
    let take = |words| dev.pool().take(words);
    let (mut codes, mut scales) = (take(x.len().div_ceil(4)), take(blocks.div_ceil(2)));
    let out = (&mut codes.i8_mut()[..x.len()], &mut scales.bf16_mut()[..blocks]);
    match dev {
        Device::Reference(_) => reference::pack(x, out.0, out.1),
        Device::Cpu(c) => cpu::pack(c, x, out.0, out.1),
    }
    Packed { shape: x.shape(), dtype: x.dtype(), codes, scales }
}

/// The matrix in the type that it had.
pub fn unpack(dev: &Device, packed: &Packed) -> Tensor {
    let mut x = dev.uninit(packed.shape[0], packed.shape[1], packed.dtype);
    let (codes, scales) = packed.parts();
    match dev {
        Device::Reference(_) => reference::unpack(codes, scales, &mut x),
        Device::Cpu(c) => cpu::unpack(c, codes, scales, &mut x),
    }
    x
}

/// The scale of a block whose largest magnitude is `largest`, and what values are multiplied by; zero for blocks that are
/// too small to divide by it.
#[inline(always)]
fn scale(largest: f32) -> (f32, f32) {
    let scale = round_bf16(largest / 127.0);
    if scale < f32::MIN_POSITIVE { (0.0, 0.0) } else { (scale, 1.0 / scale) }
}
