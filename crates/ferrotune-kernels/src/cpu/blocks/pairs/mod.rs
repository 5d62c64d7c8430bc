//! Products with vectors rounded to bf16, as the precision table has it: each lane of an instruction multiplies two values.
//!
//! 64 values of a row make a unit: 32 words of 16 bits twice, so that a table of sixteen numbers in bf16 is looked up by one
//! permute of words, and multiplied as it is. One row follows the other, as they lie in memory: four at a time would be fewer
//! instructions, but the processor foresees four streams worse than one, and it is memory that is waited for.

use std::arch::x86_64::*;
use std::ops::Range;

use super::rows::{RowProduct, run};
use super::{Results, Rows};
use crate::ahead::{BYTES_AHEAD, ask};
use crate::cpu::Cpu;
use crate::cpu::words::narrow_one;
use crate::tensor::Buffer;

mod formats;

use formats::{FourBits, Nibbles};

/// Values of a unit.
const UNIT: usize = 64;

/// A unit's words, and the factor of each lane; of formats with minima also `[_, minimum, _, minimum]` of its two blocks.
struct Unit {
    words: [__m512i; 2],
    scale: __m512,
    minima: __m128,
}

/// Rows of blocks.
trait Format {
    /// Whether values have minima beside their scales.
    const MINIMA: bool;

    /// Before a row is read.
    ///
    /// # Safety
    /// AVX-512 with BW, DQ, VL and BF16; the row is inside.
    #[inline(always)]
    unsafe fn begin(&mut self, _row: usize) {}

    /// Where the first row begins, and the bytes of a row.
    fn place(&self) -> (*const u8, usize);

    /// A unit of a row.
    ///
    /// # Safety
    /// The CPU has the instructions of this module, and the row has the unit.
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit;
}

/// The vectors in bf16 in the order of a format's words, and sums of their blocks.
pub(super) struct Vectors {
    values: Buffer,
    /// For each unit `[0, sum of its first 32 values, 0, sum of the others]`.
    sums: Option<Buffer>,
}

impl Vectors {
    /// Prepares `m` vectors of `k` values in `x`; gives none if this way is not for the format.
    pub(super) fn new(cpu: &Cpu, rows: Rows<'_>, x: &[f32], k: usize) -> Option<Self> {
        let even_first = match rows {
            Rows::FourBit(bits) if k / bits.block() + 2 <= formats::SCALES => true,
            Rows::Q4_0(_) | Rows::Q4_1(_) | Rows::Q8_0(_) => false,
            _ => return None,
        };
        if !cpu.isa().has_bf16() || !k.is_multiple_of(UNIT) {
            return None;
        }
        let mut values = cpu.pool().take(x.len().div_ceil(2));
        let out = values.bf16_mut()[..x.len()].as_chunks_mut::<UNIT>().0;
        for (x, out) in x.as_chunks::<UNIT>().0.iter().zip(out) {
            for (i, out) in out.iter_mut().enumerate() {
                let from = if even_first {
                    // 32 even ones, 32 odd ones.
                    2 * (i % 32) + i / 32
                } else {
                    // The first halves of two blocks of 32, their second halves.
                    (i % 16) + 16 * (i / 32) + 32 * (i % 32 / 16)
                };
                *out = narrow_one(x[from]);
            }
        }
        let sums = matches!(rows, Rows::Q4_1(_)).then(|| {
            let mut sums = cpu.pool().take(x.len() / UNIT * 4);
            let rounded = |x: &[f32]| x.iter().map(|v| narrow_one(*v).to_f32()).sum::<f32>();
            let out = sums.f32_mut()[..x.len() / UNIT * 4].as_chunks_mut::<4>().0;
            for (x, out) in x.as_chunks::<UNIT>().0.iter().zip(out) {
                *out = [0.0, rounded(&x[..32]), 0.0, rounded(&x[32..])];
            }
            sums
        });
        Some(Vectors { values, sums })
    }

    /// The products of `m` vectors of `k` values with a range of rows.
    ///
    /// # Safety
    /// AVX-512 with BW, DQ, VL and BF16; these vectors were made for the rows, which are inside.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn run(
        &self,
        rows: Rows<'_>,
        (m, k): (usize, usize),
        range: Range<usize>,
        out: &mut Results,
    ) {
        // SAFETY: contract of the function.
        unsafe {
            match rows {
                Rows::FourBit(bits) => run(&mut self.of(FourBits::new(bits, k), k), m, range, out),
                Rows::Q4_0(blocks) => run(&mut self.of(Nibbles::new(blocks), k), m, range, out),
                Rows::Q4_1(blocks) => run(&mut self.of(Nibbles::new(blocks), k), m, range, out),
                Rows::Q8_0(blocks) => run(&mut self.of(blocks, k), m, range, out),
                _ => unreachable!("vectors are made for these formats alone"),
            }
        }
    }

    fn of<F: Format>(&self, format: F, k: usize) -> Product<'_, F> {
        Product { vectors: self, format, k }
    }
}

/// The vectors beside rows of a format.
struct Product<'v, F> {
    vectors: &'v Vectors,
    format: F,
    k: usize,
}

impl<F: Format> RowProduct for Product<'_, F> {
    #[inline(always)]
    unsafe fn row<const M: usize>(&mut self, row: usize) -> [f32; M] {
        let units = self.k / UNIT;
        let values = self.vectors.values.f32().as_ptr();
        let of_blocks = self.vectors.sums.as_ref().map_or(std::ptr::null(), |sums| sums.f32().as_ptr());
        // SAFETY: contract of the trait; a unit is 32 words of a vector, and four of its sums.
        unsafe {
            self.format.begin(row);
            let (start, row_bytes) = self.format.place();
            ask(start.wrapping_add(row * row_bytes + BYTES_AHEAD), row_bytes);
            let mut sums = [_mm512_setzero_ps(); M];
            let mut least = [_mm_setzero_ps(); M];
            for u in 0..units {
                let mut x = [[pairs(_mm512_setzero_si512()); 2]; M];
                for (i, x) in x.iter_mut().enumerate() {
                    let at = values.add((i * units + u) * UNIT / 2);
                    x[0] = pairs(_mm512_loadu_si512(at.cast()));
                    x[1] = pairs(_mm512_loadu_si512(at.add(16).cast()));
                }
                let Unit { words, scale, minima } = self.format.unit(row, u);
                for i in 0..M {
                    let part = _mm512_dpbf16_ps(_mm512_setzero_ps(), pairs(words[0]), x[i][0]);
                    let part = _mm512_dpbf16_ps(part, pairs(words[1]), x[i][1]);
                    sums[i] = _mm512_fmadd_ps(part, scale, sums[i]);
                    if F::MINIMA {
                        let of_blocks = _mm_loadu_ps(of_blocks.add(4 * (i * units + u)));
                        least[i] = _mm_fmadd_ps(minima, of_blocks, least[i]);
                    }
                }
            }
            let mut y = [0.0; M];
            for i in 0..M {
                y[i] = _mm512_reduce_add_ps(sums[i]);
                if F::MINIMA {
                    let (second, last) = (_mm_movehdup_ps(least[i]), _mm_permute_ps::<0b11>(least[i]));
                    y[i] += _mm_cvtss_f32(_mm_add_ss(second, last));
                }
            }
            y
        }
    }
}

/// 32 numbers of 16 bits as pairs.
#[inline(always)]
unsafe fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: the same bits.
    unsafe { std::mem::transmute(words) }
}
