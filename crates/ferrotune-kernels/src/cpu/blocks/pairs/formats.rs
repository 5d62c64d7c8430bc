//! How each format gives the words of a unit.

use std::arch::x86_64::*;

use half::bf16;

use super::super::rows::Blocks;
use super::{Format, UNIT, Unit};
use crate::cpu::words::narrow_one;
use crate::quant::FourBit;
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::nf4::Scales;

/// Scales of a 4-bit weight that are made together.
pub(super) const SCALES: usize = 512;

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
pub(super) struct FourBits<'a> {
    bits: &'a FourBit,
    packed: *const u8,
    k: usize,
    shift: u32,
    table: __m512i,
    /// Scales of the row at hand, the first of them of block `first`.
    scales: [f32; SCALES],
    first: usize,
}

impl<'a> FourBits<'a> {
    /// # Safety
    /// AVX-512.
    #[inline(always)]
    pub(super) unsafe fn new(bits: &'a FourBit, k: usize) -> Self {
        // SAFETY: contract of the function.
        let table = unsafe { table(bits.code()) };
        let shift = bits.block().trailing_zeros();
        FourBits { bits, packed: bits.packed().as_ptr(), k, shift, table, scales: [0.0; SCALES], first: 0 }
    }
}

impl Format for FourBits<'_> {
    const MINIMA: bool = false;

    #[inline(always)]
    unsafe fn begin(&mut self, row: usize) {
        self.first = (row * self.k) >> self.shift;
        let last = ((row + 1) * self.k - 1) >> self.shift;
        let out = &mut self.scales[..last + 1 - self.first];
        // SAFETY: contract of the trait.
        unsafe { scales_into(self.bits, self.first, out) }
    }

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        (self.packed, self.k / 2)
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        let at = row * self.k + unit * UNIT;
        // SAFETY: contract of the trait: 32 bytes of the row, and a scale that was made.
        unsafe {
            let bytes = _mm256_loadu_si256(self.packed.add(at / 2).cast());
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

/// The scales of blocks from `first` on, as [`ScalesOf::read`](crate::quant::nf4::ScalesOf::read) makes them.
///
/// # Safety
/// AVX-512 with BW and VL.
#[inline(always)]
unsafe fn scales_into(bits: &FourBit, first: usize, out: &mut [f32]) {
    let Scales::Nested { codes, absmax, map, offset, block } = bits.scales() else {
        return bits.scales_of().read(first, out);
    };
    let codes = &codes.as_slice()[first..][..out.len()];
    let shift = block.trailing_zeros();
    if !block.is_power_of_two() || (first + out.len()).div_ceil(*block) > absmax.len() {
        return bits.scales_of().read(first, out);
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

/// The two blocks of 32 values of a unit.
///
/// # Safety
/// They are inside.
#[inline(always)]
unsafe fn two<'a, B>(blocks: Blocks<'a, B>, row: usize, unit: usize) -> (&'a B, &'a B) {
    // SAFETY: contract of the function.
    unsafe { (blocks.one(row, 2 * unit), blocks.one(row, 2 * unit + 1)) }
}

/// Blocks of 32 nibbles, the low ones first.
pub(super) struct Nibbles<'a, B> {
    blocks: Blocks<'a, B>,
    table: __m512i,
}

impl<'a, B: Block> Nibbles<'a, B> {
    /// # Safety
    /// AVX-512.
    #[inline(always)]
    pub(super) unsafe fn new(blocks: Blocks<'a, B>) -> Self {
        let mut values = [0.0; 16];
        for (i, value) in values.iter_mut().enumerate() {
            *value = i as f32 - B::LESS;
        }
        // SAFETY: contract of the function.
        Nibbles { blocks, table: unsafe { table(&values) } }
    }
}

/// A block of nibbles.
pub(super) trait Block {
    /// Whether it has a minimum.
    const MINIMUM: bool;
    /// What is taken from a nibble.
    const LESS: f32;

    /// Its first two halves of a float (of which the second may be no float), and its nibbles.
    fn parts(&self) -> (i32, *const u8);
}

impl Block for Q4_1 {
    const MINIMUM: bool = true;
    const LESS: f32 = 0.0;

    #[inline(always)]
    fn parts(&self) -> (i32, *const u8) {
        let ([a, b], [c, d]) = (self.d, self.m);
        (i32::from_le_bytes([a, b, c, d]), self.qs.as_ptr())
    }
}

impl Block for Q4_0 {
    const MINIMUM: bool = false;
    const LESS: f32 = 8.0;

    #[inline(always)]
    fn parts(&self) -> (i32, *const u8) {
        let [a, b] = self.d;
        (i32::from_le_bytes([a, b, 0, 0]), self.qs.as_ptr())
    }
}

impl<B: Block> Format for Nibbles<'_, B> {
    const MINIMA: bool = B::MINIMUM;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        self.blocks.place()
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        // SAFETY: contract of the trait: two blocks of the row, of 16 bytes of nibbles each.
        unsafe {
            let (a, b) = two(self.blocks, row, unit);
            let ((first, a), (second, b)) = (a.parts(), b.parts());
            let (a, b) = (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast()));
            let low = _mm512_cvtepu8_epi16(_mm256_set_m128i(b, a));
            let words = [
                _mm512_permutexvar_epi16(low, self.table),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(low), self.table),
            ];
            let heads = _mm_cvtph_ps(_mm_set_epi32(0, 0, second, first));
            Unit { words, scale: by_block(heads), minima: heads }
        }
    }
}

impl Format for Blocks<'_, Q8_0> {
    const MINIMA: bool = false;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        Blocks::place(*self)
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> Unit {
        // SAFETY: contract of the trait: two blocks of the row, of 32 bytes each.
        unsafe {
            let (first, second) = two(*self, row, unit);
            // Whole numbers up to 256 are numbers in bf16.
            let (a, b) = (first.qs.as_ptr(), second.qs.as_ptr());
            let words = [
                _mm512_cvtne2ps_pbh(sixteen(b), sixteen(a)),
                _mm512_cvtne2ps_pbh(sixteen(b.add(16)), sixteen(a.add(16))),
            ];
            let words = std::mem::transmute::<[__m512bh; 2], [__m512i; 2]>(words);
            let heads = [u16::from_le_bytes(first.d), u16::from_le_bytes(second.d)];
            let heads = _mm_cvtph_ps(_mm_set_epi32(0, 0, i32::from(heads[1]), i32::from(heads[0])));
            Unit { words, scale: by_block(heads), minima: _mm_setzero_ps() }
        }
    }
}

/// Sixteen bytes with a sign.
///
/// # Safety
/// AVX-512; they may be read.
#[inline(always)]
unsafe fn sixteen(bytes: *const u8) -> __m512 {
    // SAFETY: contract of the function.
    unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast()))) }
}
