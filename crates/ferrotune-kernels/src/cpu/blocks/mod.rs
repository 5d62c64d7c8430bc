//! Products of a few vectors with rows of a block-quantized weight, multiplied as they are stored: what decoding a token
//! at a time reads is then the blocks alone. The vectors stay f32; in bf16 precision they become bf16 where the instruction
//! set multiplies it (`pairs`), and numbers of 16 bits on AVX2 (`fixed`).
//!
//! A block of scale `d` and minimum `m` adds `d (q . x) + m sum(x)`; the sums of x are made once for all rows. Every
//! format is written once, with the sixteen values that [`lanes::Lanes`] stands for; the order of a sum depends on the
//! format alone.

use super::math::sum;
use super::{Cpu, Isa};
use crate::dtype::Precision;
use crate::quant::gguf::k_quants::{Q4K, Q6K};
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::gguf::{GgufType, blocks_of};
use crate::quant::{FourBit, Int8Rows, Storage, Weight};
use crate::tensor::Buffer;

#[cfg(target_arch = "aarch64")]
mod arm;
#[cfg(target_arch = "x86_64")]
mod fixed;
mod formats;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod pairs;
#[cfg(target_arch = "x86_64")]
mod x86;

use lanes::{Lanes, Plain};

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
    Q4_0(&'a [Q4_0]),
    Q4_1(&'a [Q4_1]),
    Q8_0(&'a [Q8_0]),
    Q4K(&'a [Q4K]),
    Q6K(&'a [Q6K]),
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
    /// As whole numbers, if they are multiplied so.
    #[cfg(target_arch = "x86_64")]
    fixed: Option<fixed::Vectors>,
}

impl<'a> Products<'a> {
    /// Prepares the vectors in `x`, one after the other; none if the weight's format is not multiplied as it is.
    pub(crate) fn new(cpu: &Cpu, precision: Precision, weight: &'a Weight, x: &'a [f32]) -> Option<Self> {
        let (n, k) = (weight.rows(), weight.cols());
        let rows = match weight.storage() {
            // Groups of 16 bytes must not cross the ends of rows, or of blocks, which are longer.
            Storage::FourBit(bits) if k.is_multiple_of(32) => Rows::FourBit(bits),
            Storage::Int8(rows) => Rows::Int8(rows),
            Storage::Gguf(kind, bytes) => {
                let bytes = bytes.as_slice();
                match kind {
                    GgufType::Q4_0 => Rows::Q4_0(blocks_of(bytes)),
                    GgufType::Q4_1 => Rows::Q4_1(blocks_of(bytes)),
                    GgufType::Q8_0 => Rows::Q8_0(blocks_of(bytes)),
                    GgufType::Q4K => Rows::Q4K(blocks_of(bytes)),
                    GgufType::Q6K => Rows::Q6K(blocks_of(bytes)),
                    _ => return None,
                }
            }
            _ => return None,
        };
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
        #[cfg(target_arch = "x86_64")]
        if let Some(pairs) = &self.pairs {
            // SAFETY: an `Isa` in use was checked against the CPU by `Cpu::new`, and these vectors are made for one with bf16
            // and for these rows, which `first + n` does not leave.
            return unsafe { pairs.run(self.rows, (self.m, self.k), first, n, out) };
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(fixed) = &self.fixed {
            // SAFETY: as above, for one with AVX2.
            return unsafe { fixed.run(self.rows, (self.m, self.k), first, n, out) };
        }
        match self.isa {
            // SAFETY: any CPU has what plain Rust needs.
            Isa::Portable => unsafe { self.few::<Plain>(first, n, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an `Isa` in use was checked against the CPU by `Cpu::new`.
            Isa::Avx2 => unsafe { self.narrow(first, n, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { self.wide(first, n, out) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: every 64-bit Arm has NEON.
            Isa::Neon => unsafe { self.few::<arm::Quad>(first, n, out) },
            // SAFETY: as for `Portable`.
            _ => unsafe { self.few::<Plain>(first, n, out) },
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn narrow(&self, first: usize, n: usize, out: &mut Results) {
        // SAFETY: the instruction set is that of this function.
        unsafe { self.few::<x86::Narrow>(first, n, out) }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    fn wide(&self, first: usize, n: usize, out: &mut Results) {
        // SAFETY: the instruction set is that of this function.
        unsafe { self.few::<x86::Wide>(first, n, out) }
    }

    /// # Safety
    /// The instruction set of `L`.
    #[inline(always)]
    unsafe fn few<L: Lanes>(&self, first: usize, n: usize, out: &mut Results) {
        // SAFETY: contract of the function.
        unsafe {
            match self.m {
                1 => self.each::<L, 1>(first, n, out),
                2 => self.each::<L, 2>(first, n, out),
                3 => self.each::<L, 3>(first, n, out),
                _ => self.each::<L, 4>(first, n, out),
            }
        }
    }

    /// # Safety
    /// The instruction set of `L`; there are `M` vectors.
    #[inline(always)]
    unsafe fn each<L: Lanes, const M: usize>(&self, first: usize, n: usize, out: &mut Results) {
        let k = self.k;
        let x = formats::Vectors::<M> {
            values: self.split.as_ref().map_or(self.x, Buffer::f32).as_ptr(),
            sums: self.sums.as_ref().map_or(std::ptr::null(), |s| s.f32().as_ptr()),
            k,
        };
        /// The blocks of a row.
        fn of<B>(blocks: &[B], row: usize, k: usize, len: usize) -> &[B] {
            &blocks[row * (k / len)..][..k / len]
        }
        for j in 0..n {
            let row = first + j;
            // SAFETY: contract of the function; blocks and vectors are those of a whole row.
            let y: [f32; M] = unsafe {
                match self.rows {
                    Rows::FourBit(bits) => formats::four_bit::<L, M>(bits, row * k, x),
                    Rows::Int8(rows) => {
                        formats::int8::<L, M>(&rows.codes()[row * k..][..k], rows.absmax()[row], x)
                    }
                    Rows::Q4_0(b) => formats::q4_0::<L, M>(of(b, row, k, 32), x),
                    Rows::Q4_1(b) => formats::q4_1::<L, M>(of(b, row, k, 32), x),
                    Rows::Q8_0(b) => formats::q8_0::<L, M>(of(b, row, k, 32), x),
                    Rows::Q4K(b) => formats::q4_k::<L, M>(of(b, row, k, 256), x),
                    Rows::Q6K(b) => formats::q6_k::<L, M>(of(b, row, k, 256), x),
                }
            };
            for i in 0..M {
                out[i][j] = y[i];
            }
        }
    }
}

#[cfg(test)]
mod tests;
