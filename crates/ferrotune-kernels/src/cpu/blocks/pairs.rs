//! The same with vectors rounded to bf16, as the precision table has it: each lane of an instruction multiplies two values.
//!
//! 64 values of a row make a unit: 32 words of 16 bits twice, so that a table of sixteen numbers in bf16 is looked up by one
//! permute of words, and multiplied as it is. Four rows are at work together: their chains of additions wait for each other
//! less, and the vectors are read once for all of them.

use std::arch::x86_64::*;

use half::bf16;

use super::{FEW, Results, Rows};
use crate::cpu::Cpu;
use crate::cpu::words::narrow_one;
use crate::quant::FourBit;
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::nf4::Scales;
use crate::tensor::Buffer;

/// Values of a unit.
const UNIT: usize = 64;

/// Rows at a time where there is one vector.
const ROWS: usize = 4;

/// Scales of a 4-bit weight that are made together.
const SCALES: usize = 2048;

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

    /// Before rows `row..row + R` are read.
    ///
    /// # Safety
    /// AVX-512 with BW, DQ, VL and BF16; the rows are inside.
    unsafe fn begin<const R: usize>(&mut self, row: usize);

    /// A unit of a row.
    ///
    /// # Safety
    /// As above.
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit;
}

/// The vectors in bf16 in the order of a format's words, and sums of their blocks.
pub(super) struct Vectors {
    values: Buffer,
    /// For each unit `[0, sum of its first 32 values, 0, sum of the others]`.
    sums: Option<Buffer>,
}

impl Vectors {
    /// Of `m` vectors of `k` values in `x`; none if this way is not for the format.
    pub(super) fn new(cpu: &Cpu, rows: Rows<'_>, x: &[f32], k: usize) -> Option<Self> {
        let even_first = match rows {
            Rows::FourBit(bits) if ROWS * k / bits.block() + 2 <= SCALES => true,
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

    /// The products of `m` vectors of `k` values with rows `first..first + n`.
    ///
    /// # Safety
    /// AVX-512 with BW, DQ, VL and BF16; these vectors were made for the rows, which are inside.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    pub(super) unsafe fn run(
        &self,
        rows: Rows<'_>,
        (m, k): (usize, usize),
        first: usize,
        n: usize,
        out: &mut Results,
    ) {
        // SAFETY: contract of the function.
        unsafe {
            match rows {
                Rows::FourBit(bits) => self.few(&mut FourBits::new(bits, k), m, k, first, n, out),
                Rows::Q4_0(blocks) => self.few(&mut Nibbles { blocks, per_row: k / 32 }, m, k, first, n, out),
                Rows::Q4_1(blocks) => self.few(&mut Nibbles { blocks, per_row: k / 32 }, m, k, first, n, out),
                Rows::Q8_0(blocks) => self.few(&mut Bytes { blocks, per_row: k / 32 }, m, k, first, n, out),
                _ => unreachable!("vectors are made for these formats alone"),
            }
        }
    }

    /// # Safety
    /// As for [`Vectors::run`].
    #[inline(always)]
    unsafe fn few<F: Format>(
        &self,
        format: &mut F,
        m: usize,
        k: usize,
        first: usize,
        n: usize,
        out: &mut Results,
    ) {
        // SAFETY: contract of the function.
        unsafe {
            match m {
                1 => {
                    let whole = n / ROWS * ROWS;
                    for j in (0..whole).step_by(ROWS) {
                        self.rows::<F, 1, ROWS>(format, k, first, j, out);
                    }
                    for j in whole..n {
                        self.rows::<F, 1, 1>(format, k, first, j, out);
                    }
                }
                2 => (0..n).for_each(|j| self.rows::<F, 2, 1>(format, k, first, j, out)),
                3 => (0..n).for_each(|j| self.rows::<F, 3, 1>(format, k, first, j, out)),
                _ => (0..n).for_each(|j| self.rows::<F, FEW, 1>(format, k, first, j, out)),
            }
        }
    }

    /// Rows `first + j..` with all vectors. The order of a sum depends on neither number.
    ///
    /// # Safety
    /// As for [`Vectors::run`]; there are `M` vectors, and `R` rows from `first + j` on.
    #[inline(always)]
    unsafe fn rows<F: Format, const M: usize, const R: usize>(
        &self,
        format: &mut F,
        k: usize,
        first: usize,
        j: usize,
        out: &mut Results,
    ) {
        let units = k / UNIT;
        let values = self.values.f32().as_ptr();
        let of_blocks = self.sums.as_ref().map_or(std::ptr::null(), |sums| sums.f32().as_ptr());
        // SAFETY: contract of the function; a unit is 32 words of a vector, and four of its sums.
        unsafe {
            format.begin::<R>(first + j);
            let mut sums = [[_mm512_setzero_ps(); R]; M];
            let mut least = [[_mm_setzero_ps(); R]; M];
            for u in 0..units {
                let x: [[__m512bh; 2]; M] = std::array::from_fn(|i| {
                    let at = values.add((i * units + u) * UNIT / 2);
                    [pairs(_mm512_loadu_si512(at.cast())), pairs(_mm512_loadu_si512(at.add(16).cast()))]
                });
                for r in 0..R {
                    let Unit { words, scale, minima } = format.unit(first + j + r, u);
                    for i in 0..M {
                        let part = _mm512_dpbf16_ps(_mm512_setzero_ps(), pairs(words[0]), x[i][0]);
                        let part = _mm512_dpbf16_ps(part, pairs(words[1]), x[i][1]);
                        sums[i][r] = _mm512_fmadd_ps(part, scale, sums[i][r]);
                        if F::MINIMA {
                            let of_blocks = _mm_loadu_ps(of_blocks.add(4 * (i * units + u)));
                            least[i][r] = _mm_fmadd_ps(minima, of_blocks, least[i][r]);
                        }
                    }
                }
            }
            for i in 0..M {
                for r in 0..R {
                    let mut y = _mm512_reduce_add_ps(sums[i][r]);
                    if F::MINIMA {
                        let least = least[i][r];
                        y += _mm_cvtss_f32(_mm_add_ss(_mm_movehdup_ps(least), _mm_permute_ps::<0b11>(least)));
                    }
                    out[i][j + r] = y;
                }
            }
        }
    }
}

/// 32 numbers of 16 bits as pairs.
#[inline(always)]
unsafe fn pairs(words: __m512i) -> __m512bh {
    // SAFETY: the same bits.
    unsafe { std::mem::transmute(words) }
}

/// Sixteen numbers in bf16, twice: a permute of words looks at five bits, of which the fifth is another nibble's.
#[inline(always)]
unsafe fn table(values: &[f32; 16]) -> __m512i {
    let mut twice = [bf16::ZERO; 32];
    for (i, out) in twice.iter_mut().enumerate() {
        *out = narrow_one(values[i % 16]);
    }
    // SAFETY: 32 words of 16 bits.
    unsafe { _mm512_loadu_si512(twice.as_ptr().cast()) }
}

/// NF4 or FP4.
struct FourBits<'a> {
    bits: &'a FourBit,
    k: usize,
    shift: u32,
    table: __m512i,
    /// Scales of the rows at hand, the first of them of block `first`.
    scales: [f32; SCALES],
    first: usize,
}

impl<'a> FourBits<'a> {
    /// # Safety
    /// AVX-512.
    #[inline(always)]
    unsafe fn new(bits: &'a FourBit, k: usize) -> Self {
        // SAFETY: contract of the function.
        let table = unsafe { table(bits.code()) };
        let shift = bits.block().trailing_zeros();
        FourBits { bits, k, shift, table, scales: [0.0; SCALES], first: 0 }
    }
}

impl Format for FourBits<'_> {
    const MINIMA: bool = false;

    #[inline(always)]
    unsafe fn begin<const R: usize>(&mut self, row: usize) {
        self.first = (row * self.k) >> self.shift;
        let last = ((row + R) * self.k - 1) >> self.shift;
        let out = &mut self.scales[..last + 1 - self.first];
        // SAFETY: contract of the trait.
        unsafe { scales_into(self.bits, self.first, out) }
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        let at = row * self.k + unit * UNIT;
        // SAFETY: contract of the trait: 32 bytes of the row, and a scale that was made.
        unsafe {
            let bytes = _mm256_loadu_si256(self.bits.packed().as_ptr().add(at / 2).cast());
            let low = _mm512_cvtepu8_epi16(bytes);
            // The first value of a byte is its high nibble.
            let words = [
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(low), self.table),
                _mm512_permutexvar_epi16(low, self.table),
            ];
            let scale = *self.scales.get_unchecked((at >> self.shift) - self.first);
            Unit { words, scale: _mm512_set1_ps(scale), minima: _mm_setzero_ps() }
        }
    }
}

/// The scales of blocks from `first` on, as [`FourBit::scales_into`] makes them.
///
/// # Safety
/// AVX-512 with BW and VL.
#[inline(always)]
unsafe fn scales_into(bits: &FourBit, first: usize, out: &mut [f32]) {
    let Scales::Nested { codes, absmax, map, offset, block } = bits.scales() else {
        return bits.scales_into(first, out);
    };
    let codes = &codes.as_slice()[first..][..out.len()];
    let shift = block.trailing_zeros();
    if !block.is_power_of_two() || (first + out.len()).div_ceil(*block) > absmax.len() {
        return bits.scales_into(first, out);
    }
    for (at, (codes, out)) in (first..).step_by(16).zip(codes.chunks(16).zip(out.chunks_mut(16))) {
        let mask = (1u32 << codes.len()).wrapping_sub(1) as __mmask16;
        // SAFETY: both are as long as the mask has ones; a code is below 256, and the second scales were counted above.
        unsafe {
            let zero = _mm512_setzero_ps();
            let code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, codes.as_ptr().cast()));
            let value = _mm512_mask_i32gather_ps::<4>(zero, mask, code, map.as_ptr());
            let second = at >> shift;
            let scale = if second == (at + codes.len() - 1) >> shift {
                _mm512_set1_ps(absmax[second])
            } else {
                let count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let place = _mm512_add_epi32(count, _mm512_set1_epi32((at & (block - 1)) as i32));
                let place = _mm512_srl_epi32(place, _mm_cvtsi32_si128(shift as i32));
                _mm512_mask_i32gather_ps::<4>(zero, mask, place, absmax.as_ptr().add(second))
            };
            let value = _mm512_add_ps(_mm512_mul_ps(value, scale), _mm512_set1_ps(*offset));
            _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, value);
        }
    }
}

/// A factor for the lanes of each of two blocks.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn by_block(two: __m128) -> __m512 {
    // SAFETY: contract of the function.
    unsafe {
        let place = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2);
        _mm512_permutexvar_ps(place, _mm512_castps128_ps512(two))
    }
}

/// Blocks of 32 nibbles, the low ones first.
struct Nibbles<'a, B> {
    blocks: &'a [B],
    per_row: usize,
}

/// A block of nibbles.
trait Block {
    /// Whether it has a minimum.
    const MINIMUM: bool;
    /// What is taken from a nibble.
    const LESS: i32;

    /// Its first two halves of a float (of which the second may be no float), and its nibbles.
    fn parts(&self) -> (i32, *const u8);
}

impl Block for Q4_1 {
    const MINIMUM: bool = true;
    const LESS: i32 = 0;

    #[inline(always)]
    fn parts(&self) -> (i32, *const u8) {
        let ([a, b], [c, d]) = (self.d, self.m);
        (i32::from_le_bytes([a, b, c, d]), self.qs.as_ptr())
    }
}

impl Block for Q4_0 {
    const MINIMUM: bool = false;
    const LESS: i32 = 8;

    #[inline(always)]
    fn parts(&self) -> (i32, *const u8) {
        let [a, b] = self.d;
        (i32::from_le_bytes([a, b, 0, 0]), self.qs.as_ptr())
    }
}

impl<B: Block> Format for Nibbles<'_, B> {
    const MINIMA: bool = B::MINIMUM;

    #[inline(always)]
    unsafe fn begin<const R: usize>(&mut self, _: usize) {}

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        const {
            assert!(B::LESS == 0 || B::LESS == 8);
        }
        // SAFETY: contract of the trait: two blocks of the row, of 16 bytes of nibbles each.
        unsafe {
            let at = row * self.per_row + 2 * unit;
            let (first, a) = self.blocks.get_unchecked(at).parts();
            let (second, b) = self.blocks.get_unchecked(at + 1).parts();
            let (a, b) = (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast()));
            let low = _mm512_cvtepu8_epi16(_mm256_set_m128i(b, a));
            let table = counts(B::LESS);
            let words = [
                _mm512_permutexvar_epi16(low, table),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(low), table),
            ];
            let heads = _mm_cvtph_ps(_mm_set_epi32(0, 0, second, first));
            Unit { words, scale: by_block(heads), minima: heads }
        }
    }
}

/// Nibbles less a number, in bf16.
#[inline(always)]
unsafe fn counts(less: i32) -> __m512i {
    // SAFETY: AVX-512 is there where this is called. A constant for the compiler.
    unsafe { table(&std::array::from_fn(|i| (i as i32 - less) as f32)) }
}

/// Blocks of 32 bytes.
struct Bytes<'a> {
    blocks: &'a [Q8_0],
    per_row: usize,
}

impl Format for Bytes<'_> {
    const MINIMA: bool = false;

    #[inline(always)]
    unsafe fn begin<const R: usize>(&mut self, _: usize) {}

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        // SAFETY: contract of the trait: two blocks of the row, of 32 bytes each.
        unsafe {
            let at = row * self.per_row + 2 * unit;
            let (first, second) = (self.blocks.get_unchecked(at), self.blocks.get_unchecked(at + 1));
            let wide = |block: &Q8_0, half: usize| {
                let bytes = _mm_loadu_si128(block.qs.as_ptr().add(16 * half).cast());
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
            };
            // Whole numbers up to 256 are numbers in bf16.
            let words = [0, 1].map(|half| {
                std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                    wide(second, half),
                    wide(first, half),
                ))
            });
            let half = |d: [u8; 2]| i32::from(u16::from_le_bytes(d));
            let heads = _mm_cvtph_ps(_mm_set_epi32(0, 0, half(second.d), half(first.d)));
            Unit { words, scale: by_block(heads), minima: _mm_setzero_ps() }
        }
    }
}
