//! Products of one to four vectors with rows of a block-quantized weight, multiplied as they are stored: what decoding a token
//! at a time reads is then the blocks alone. Nothing else is in here, and nothing but `ops/linear/few.rs` needs it: without it
//! decoding would be slower and everything else as it is.
//!
//! There are three ways, each with its own form of the vectors, and a [`rows::RowProduct`] for what it does with a row:
//!
//! - sixteen f32 values at a time (`formats`, with the registers of each instruction set in `lanes`, `x86` and `arm`): every
//!   format on every CPU;
//! - pairs of bf16 (`pairs`): in bf16 precision where the instruction set multiplies it;
//! - whole numbers of 16 bits (`fixed`): in bf16 precision on AVX2.
//!
//! A block of scale `d` and minimum `m` adds `d (q . x) + m sum(x)`; the sums of x are made once for all rows. The order of a
//! sum depends on the format and the way alone, not on the number of vectors.

use std::marker::PhantomData;
use std::ops::Range;

use super::math::sum;
use super::{Cpu, Isa};
use crate::dtype::Precision;
use crate::quant::gguf::k_quants::{Q4K, Q6K};
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::gguf::{GgufBlocks, GgufType, blocks_of};
use crate::quant::{FourBit, Int8Rows, Weight};
use crate::tensor::Buffer;

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod fixed;
mod formats;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod rows;
#[cfg(target_arch = "x86_64")]
mod x86;

use lanes::{Lanes, Plain};
use rows::{Blocks, RowProduct};

/// Most vectors.
pub(crate) const FEW: usize = 4;

/// Most rows of the weight at a time.
pub(crate) const RUN: usize = 32;

/// Results of a run of rows, for each vector.
pub(crate) type Results = [[f32; RUN]; FEW];

#[derive(Clone, Copy)]
enum Rows<'a> {
    FourBit(&'a FourBit),
    Int8(&'a Int8Rows),
    Q4_0(Blocks<'a, Q4_0>),
    Q4_1(Blocks<'a, Q4_1>),
    Q8_0(Blocks<'a, Q8_0>),
    Q4K(Blocks<'a, Q4K>),
    Q6K(Blocks<'a, Q6K>),
}

/// The rows of a weight whose format is multiplied as it is.
fn rows(weight: &Weight) -> Option<Rows<'_>> {
    let k = weight.cols();
    if let Some(bits) = weight.format::<FourBit>() {
        // Groups of 16 bytes must not cross the ends of rows, or of blocks, which are longer.
        return k.is_multiple_of(32).then_some(Rows::FourBit(bits));
    }
    if let Some(rows) = weight.format::<Int8Rows>() {
        return Some(Rows::Int8(rows));
    }
    let blocks = weight.format::<GgufBlocks>()?;
    let (bytes, per_row) = (blocks.bytes(), k / blocks.kind().block_len());
    match blocks.kind() {
        GgufType::Q4_0 => Some(Rows::Q4_0(Blocks::new(blocks_of(bytes), per_row))),
        GgufType::Q4_1 => Some(Rows::Q4_1(Blocks::new(blocks_of(bytes), per_row))),
        GgufType::Q8_0 => Some(Rows::Q8_0(Blocks::new(blocks_of(bytes), per_row))),
        GgufType::Q4K => Some(Rows::Q4K(Blocks::new(blocks_of(bytes), per_row))),
        GgufType::Q6K => Some(Rows::Q6K(Blocks::new(blocks_of(bytes), per_row))),
        _ => None,
    }
}

/// A weight with the vectors that its rows will be multiplied with.
pub(crate) struct Products<'a> {
    isa: Isa,
    rows: Rows<'a>,
    /// Number of rows.
    n: usize,
    /// Vectors and their length.
    m: usize,
    k: usize,
    x: &'a [f32],
    /// The vectors in the order of [`Lanes::both`].
    split: Option<Buffer>,
    /// Sums of 32 values each, of each vector [`formats::sums_of`].
    sums: Option<Buffer>,
    /// The vectors in bf16, if they are multiplied so.
    #[cfg(target_arch = "x86_64")]
    pairs: Option<pairs::Vectors>,
    /// The vectors as whole numbers, if they are multiplied so.
    #[cfg(target_arch = "x86_64")]
    fixed: Option<fixed::Vectors>,
}

impl<'a> Products<'a> {
    /// Prepares the vectors in `x`, one after the other; none if the weight's format is not multiplied as it is.
    pub(crate) fn new(cpu: &Cpu, precision: Precision, weight: &'a Weight, x: &'a [f32]) -> Option<Self> {
        let (n, k) = (weight.rows(), weight.cols());
        let rows = rows(weight)?;
        let m = x.len().checked_div(k)?;
        assert!((1..=FEW).contains(&m) && x.len() == m * k, "one to four vectors of the weight's width");
        #[cfg(target_arch = "x86_64")]
        let pairs = if precision == Precision::Bf16 { pairs::Vectors::new(cpu, rows, x, k) } else { None };
        #[cfg(target_arch = "x86_64")]
        let fixed = match pairs {
            None if precision == Precision::Bf16 => fixed::Vectors::new(cpu, rows, x, k),
            _ => None,
        };
        #[cfg(target_arch = "x86_64")]
        let wide = pairs.is_none() && fixed.is_none();
        #[cfg(not(target_arch = "x86_64"))]
        let (wide, _) = (true, precision);
        let made = |words: usize, fill: &dyn Fn(&mut [f32])| {
            let mut buffer = cpu.pool().take(words);
            fill(&mut buffer.f32_mut()[..words]);
            buffer
        };
        let split = (wide && matches!(rows, Rows::FourBit(_))).then(|| {
            made(m * k, &|out| {
                let order = match cpu.isa() {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => x86::Narrow::ORDER,
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 | Isa::Avx512Bf16 => x86::Wide::ORDER,
                    #[cfg(target_arch = "aarch64")]
                    Isa::Neon => arm::Quad::ORDER,
                    _ => Plain::ORDER,
                };
                for (x, out) in x.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                    for (out, from) in out.iter_mut().zip(order) {
                        *out = x[from];
                    }
                }
            })
        });
        let sums = (wide && matches!(rows, Rows::Q4_1(_) | Rows::Q4K(_))).then(|| {
            let stride = formats::sums_of(k);
            made(m * stride, &|out| {
                for (x, out) in x.chunks_exact(k).zip(out.chunks_exact_mut(stride)) {
                    out.fill(0.0);
                    out.iter_mut().zip(x.as_chunks::<32>().0).for_each(|(o, x)| *o = sum(x));
                }
            })
        });
        Some(Products {
            isa: cpu.isa(),
            rows,
            n,
            m,
            k,
            x,
            split,
            sums,
            #[cfg(target_arch = "x86_64")]
            pairs,
            #[cfg(target_arch = "x86_64")]
            fixed,
        })
    }

    /// The products with rows `first..first + n`.
    pub(crate) fn run(&self, first: usize, n: usize, out: &mut Results) {
        assert!(n <= RUN && first + n <= self.n, "rows outside the weight");
        let rows = first..first + n;
        #[cfg(target_arch = "x86_64")]
        if let Some(pairs) = &self.pairs {
            // SAFETY: an `Isa` in use was checked against the CPU by `Cpu::new`, and these vectors are made for one with bf16
            // and for these rows, which `first + n` does not leave.
            return unsafe { pairs.run(self.rows, (self.m, self.k), rows, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(fixed) = &self.fixed {
            // SAFETY: as above, for one with AVX2.
            return unsafe { fixed.run(self.rows, (self.m, self.k), rows, out) };
        }
        match self.isa {
            // SAFETY: any CPU has what plain Rust needs.
            Isa::Portable => unsafe { self.in_lanes::<Plain>(rows, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` in use was checked against the CPU by `Cpu::new`.
            Isa::Avx2 => unsafe { self.narrow(rows, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { self.wide(rows, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: every 64-bit Arm has NEON.
            Isa::Neon => unsafe { self.in_lanes::<arm::Quad>(rows, out) },
            // SAFETY: as for `Portable`.
            _ => unsafe { self.in_lanes::<Plain>(rows, out) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn narrow(&self, rows: Range<usize>, out: &mut Results) {
        // SAFETY: the instruction set is that of this function.
        unsafe { self.in_lanes::<x86::Narrow>(rows, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn wide(&self, rows: Range<usize>, out: &mut Results) {
        // SAFETY: the instruction set is that of this function.
        unsafe { self.in_lanes::<x86::Wide>(rows, out) }
    }

    /// # Safety
    /// The instruction set of `L`.
    #[inline(always)]
    unsafe fn in_lanes<L: Lanes>(&self, rows: Range<usize>, out: &mut Results) {
        // SAFETY: contract of the function; blocks and vectors are those of whole rows.
        unsafe { rows::run(&mut InLanes(self, PhantomData::<L>), self.m, rows, out) }
    }
}

/// Sixteen f32 values at a time.
struct InLanes<'p, 'a, L>(&'p Products<'a>, PhantomData<L>);

impl<L: Lanes> RowProduct for InLanes<'_, '_, L> {
    #[inline(always)]
    unsafe fn row<const M: usize>(&mut self, row: usize) -> [f32; M] {
        let (p, k) = (self.0, self.0.k);
        let x = formats::Vectors::<M> {
            values: p.split.as_ref().map_or(p.x, Buffer::f32).as_ptr(),
            sums: p.sums.as_ref().map_or(std::ptr::null(), |s| s.f32().as_ptr()),
            k,
        };
        // SAFETY: contract of the trait; blocks and vectors are those of a whole row.
        unsafe {
            match p.rows {
                Rows::FourBit(bits) => formats::four_bit::<L, M>(bits, row * k, x),
                Rows::Int8(rows) => {
                    formats::int8::<L, M>(&rows.codes()[row * k..][..k], rows.absmax()[row], x)
                }
                Rows::Q4_0(blocks) => formats::q4_0::<L, M>(blocks.row(row), x),
                Rows::Q4_1(blocks) => formats::q4_1::<L, M>(blocks.row(row), x),
                Rows::Q8_0(blocks) => formats::q8_0::<L, M>(blocks.row(row), x),
                Rows::Q4K(blocks) => formats::q4_k::<L, M>(blocks.row(row), x),
                Rows::Q6K(blocks) => formats::q6_k::<L, M>(blocks.row(row), x),
            }
        }
    }
}

#[cfg(test)]
mod tests;
