//! How each format gives the values and the factors of its units.

use std::arch::x86_64::*;

use super::super::rows::Blocks;
use super::{CODE, Factors, Format, GROUP, UNIT};
use crate::cpu::blocks::formats::heads;
use crate::cpu::blocks::lanes::Lanes;
use crate::cpu::blocks::x86::Narrow;
use crate::quant::gguf::k_quants::{Q4K, Q6K};
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::nf4::ScalesOf;
use crate::quant::{FourBit, Int8Rows, int8};

/// The order of the values.
pub(super) const IN_ORDER: [u8; UNIT] = {
    let mut order = [0; UNIT];
    let mut i = 0;
    while i < UNIT {
        order[i] = i as u8;
        i += 1;
    }
    order
};

/// The order in which [`FourBits`] gives values: the high nibbles of 32 bytes, which come first in each, then the low ones.
/// Shuffles stay in each half of a register.
const FOUR_BIT_ORDER: [u8; 2 * UNIT] = {
    let mut order = [0; 2 * UNIT];
    let mut i = 0;
    while i < order.len() {
        let (register, place) = (i / 16, i % 16);
        let byte = place / 8 * 16 + register % 2 * 8 + place % 8;
        order[i] = (2 * byte + register / 2) as u8;
        i += 1;
    }
    order
};

/// Sixteen bytes as numbers of 16 bits.
///
/// # Safety
/// AVX2; they may be read.
#[inline(always)]
unsafe fn wide(bytes: *const u8) -> __m256i {
    // SAFETY: contract of the function.
    unsafe { _mm256_cvtepu8_epi16(_mm_loadu_si128(bytes.cast())) }
}

/// Sixteen bytes with a sign as numbers of 16 bits.
///
/// # Safety
/// `bytes` may be read for 16 bytes; AVX2.
#[inline(always)]
unsafe fn signed(bytes: *const u8) -> __m256i {
    // SAFETY: contract of the function.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes.cast())) }
}

/// The low and the high nibbles of sixteen bytes.
///
/// # Safety
/// `bytes` may be read for 16 bytes; AVX2.
#[inline(always)]
unsafe fn nibbles(bytes: *const u8) -> [__m256i; 2] {
    // SAFETY: contract of the function.
    unsafe {
        let all = wide(bytes);
        [_mm256_and_si256(all, _mm256_set1_epi16(15)), _mm256_srli_epi16::<4>(all)]
    }
}

/// Sixteen bytes in both halves of a register.
///
/// # Safety
/// AVX2.
#[inline(always)]
unsafe fn twice(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: contract of the function.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
}

/// Sixteen values of six bits less 32: a nibble each under two bits of `high`, those after the first `two`.
///
/// # Safety
/// `low` and `high` may be read for 16 bytes; AVX2.
#[inline(always)]
unsafe fn six(low: *const u8, upper: bool, high: *const u8, two: __m128i) -> __m256i {
    // SAFETY: contract of the function.
    unsafe {
        let low = if upper { _mm256_srli_epi16::<4>(wide(low)) } else { wide(low) };
        let low = _mm256_and_si256(low, _mm256_set1_epi16(15));
        let high = _mm256_and_si256(_mm256_srl_epi16(wide(high), two), _mm256_set1_epi16(3));
        _mm256_sub_epi16(_mm256_or_si256(low, _mm256_slli_epi16::<4>(high)), _mm256_set1_epi16(32))
    }
}

/// NF4 or FP4: a table of fractions as whole numbers, their low bytes and their high bytes. A unit is 64 values, which are in
/// one block as rows are whole units.
pub(super) struct FourBits<'a> {
    scales: ScalesOf<'a>,
    packed: *const u8,
    k: usize,
    shift: u32,
    low: __m256i,
    high: __m256i,
}

impl<'a> FourBits<'a> {
    /// # Safety
    /// AVX2.
    #[inline(always)]
    pub(super) unsafe fn new(bits: &'a FourBit, k: usize) -> Self {
        let mut parts = [[0u8; 16]; 2];
        for (i, value) in bits.code().iter().enumerate() {
            let [low, high] = ((value * CODE).round_ties_even() as i16).to_le_bytes();
            (parts[0][i], parts[1][i]) = (low, high);
        }
        // SAFETY: contract of the function; each table is 16 bytes.
        let (low, high) = unsafe { (twice(&parts[0]), twice(&parts[1])) };
        let (packed, shift) = (bits.packed().as_ptr(), bits.block().trailing_zeros());
        FourBits { scales: bits.scales_of(), packed, k, shift, low, high }
    }
}

impl Format for FourBits<'_> {
    type Values = [__m256i; 4];
    const ORDER: &'static [u8] = &FOUR_BIT_ORDER;
    const ONE: f32 = CODE;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        (self.packed, self.k / 2)
    }

    #[inline(always)]
    unsafe fn factors(&self, row: usize, unit: usize, count: usize, out: &mut Factors) {
        let start = (row * self.k + unit * 2 * UNIT) / (2 * UNIT);
        let shift = self.shift - (2 * UNIT).trailing_zeros();
        let (first, last) = (start >> shift, (start + count - 1) >> shift);
        let out = &mut out.halves[0];
        self.scales.read(first, &mut out[..last + 1 - first]);
        if shift > 0 {
            // From behind, as a block's place is never after that of its first unit.
            for u in (0..count).rev() {
                out[u] = out[((start + u) >> shift) - first];
            }
        }
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> [__m256i; 4] {
        let at = row * self.k + unit * 2 * UNIT;
        // SAFETY: contract of the trait: 32 bytes of the row.
        unsafe {
            let bytes = _mm256_loadu_si256(self.packed.add(at / 2).cast());
            let nibble = _mm256_set1_epi8(15);
            let first = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble);
            let second = _mm256_and_si256(bytes, nibble);
            let (a, b) = (_mm256_shuffle_epi8(self.low, first), _mm256_shuffle_epi8(self.high, first));
            let (c, d) = (_mm256_shuffle_epi8(self.low, second), _mm256_shuffle_epi8(self.high, second));
            [
                _mm256_unpacklo_epi8(a, b),
                _mm256_unpackhi_epi8(a, b),
                _mm256_unpacklo_epi8(c, d),
                _mm256_unpackhi_epi8(c, d),
            ]
        }
    }
}

/// Rows of bytes with a scale each.
pub(super) struct Bytes<'a> {
    absmax: &'a [f32],
    codes: *const u8,
    k: usize,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(rows: &'a Int8Rows, k: usize) -> Self {
        Bytes { absmax: rows.absmax(), codes: rows.codes().as_ptr(), k }
    }
}

impl Format for Bytes<'_> {
    type Values = [__m256i; 2];
    const ORDER: &'static [u8] = &IN_ORDER;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        (self.codes, self.k)
    }

    #[inline(always)]
    unsafe fn factors(&self, row: usize, _unit: usize, _count: usize, out: &mut Factors) {
        out.halves[0].fill(int8::value(1, self.absmax[row]));
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> [__m256i; 2] {
        // SAFETY: contract of the trait: 32 bytes of the row.
        unsafe {
            let codes = self.codes.add(row * self.k + unit * UNIT);
            [signed(codes), signed(codes.add(16))]
        }
    }
}

/// A block of 32 values.
pub(super) trait Block: Sized {
    /// Whether it has a minimum.
    const MINIMUM: bool;

    /// Scales and minima of up to [`GROUP`] blocks.
    ///
    /// # Safety
    /// AVX2, FMA and F16C.
    unsafe fn heads(blocks: &[Self], scales: &mut [f32; GROUP], minima: &mut [f32; GROUP]);

    /// # Safety
    /// AVX2, FMA and F16C.
    unsafe fn values(&self) -> [__m256i; 2];
}

impl Block for Q4_0 {
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn heads(blocks: &[Self], scales: &mut [f32; GROUP], _: &mut [f32; GROUP]) {
        // SAFETY: contract of the trait.
        *scales = unsafe { heads::<Narrow, Self, 18>(blocks) }.0;
    }

    #[inline(always)]
    unsafe fn values(&self) -> [__m256i; 2] {
        // SAFETY: contract of the trait.
        unsafe {
            let [low, high] = nibbles(self.qs.as_ptr());
            let less = _mm256_set1_epi16(8);
            [_mm256_sub_epi16(low, less), _mm256_sub_epi16(high, less)]
        }
    }
}

impl Block for Q4_1 {
    const MINIMUM: bool = true;

    #[inline(always)]
    unsafe fn heads(blocks: &[Self], scales: &mut [f32; GROUP], minima: &mut [f32; GROUP]) {
        // SAFETY: contract of the trait; there is room for sixteen.
        unsafe {
            let (first, second) = heads::<Narrow, Self, 20>(blocks);
            *scales = first;
            second.store(minima.as_mut_ptr());
        }
    }

    #[inline(always)]
    unsafe fn values(&self) -> [__m256i; 2] {
        // SAFETY: contract of the trait.
        unsafe { nibbles(self.qs.as_ptr()) }
    }
}

impl Block for Q8_0 {
    const MINIMUM: bool = false;

    #[inline(always)]
    unsafe fn heads(blocks: &[Self], scales: &mut [f32; GROUP], _: &mut [f32; GROUP]) {
        // SAFETY: contract of the trait.
        *scales = unsafe { heads::<Narrow, Self, 34>(blocks) }.0;
    }

    #[inline(always)]
    unsafe fn values(&self) -> [__m256i; 2] {
        // SAFETY: contract of the trait.
        unsafe { [signed(self.qs.as_ptr()), signed(self.qs.as_ptr().add(16))] }
    }
}

impl<B: Block> Format for Blocks<'_, B> {
    type Values = [__m256i; 2];
    const ORDER: &'static [u8] = &IN_ORDER;
    const MINIMA: bool = B::MINIMUM;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        Blocks::place(*self)
    }

    #[inline(always)]
    unsafe fn factors(&self, row: usize, unit: usize, count: usize, out: &mut Factors) {
        // SAFETY: contract of the trait.
        unsafe { B::heads(self.some(row, unit, count), &mut out.halves[0], &mut out.minima) }
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> [__m256i; 2] {
        // SAFETY: contract of the trait.
        unsafe { self.one(row, unit).values() }
    }
}

/// Units of a block of 256 values.
const PER_BLOCK: usize = 8;

/// 32 values have a scale and a minimum, each of six bits.
impl Format for Blocks<'_, Q4K> {
    type Values = [__m256i; 2];
    const ORDER: &'static [u8] = &IN_ORDER;
    const MINIMA: bool = true;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        Blocks::place(*self)
    }

    #[inline(always)]
    unsafe fn factors(&self, row: usize, unit: usize, count: usize, out: &mut Factors) {
        let blocks = self.some(row, unit / PER_BLOCK, count / PER_BLOCK);
        let scales = out.halves[0].as_chunks_mut::<PER_BLOCK>().0;
        let minima = out.minima.as_chunks_mut::<PER_BLOCK>().0;
        for (block, (scales, minima)) in blocks.iter().zip(scales.iter_mut().zip(minima)) {
            // SAFETY: contract of the trait.
            let (d, least) = unsafe { (Narrow::half(block.d), -Narrow::half(block.dmin)) };
            let bytes = block.unpacked_scales();
            for i in 0..PER_BLOCK {
                scales[i] = d * f32::from(bytes[i]);
                minima[i] = least * f32::from(bytes[PER_BLOCK + i]);
            }
        }
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> [__m256i; 2] {
        // SAFETY: contract of the trait: 32 bytes of the block hold two units.
        unsafe {
            let block = self.one(row, unit / PER_BLOCK);
            let qs = block.qs.as_ptr().add(unit % PER_BLOCK / 2 * UNIT);
            let (first, second) = (wide(qs), wide(qs.add(16)));
            if unit.is_multiple_of(2) {
                let nibble = _mm256_set1_epi16(15);
                [_mm256_and_si256(first, nibble), _mm256_and_si256(second, nibble)]
            } else {
                [_mm256_srli_epi16::<4>(first), _mm256_srli_epi16::<4>(second)]
            }
        }
    }
}

/// 16 values have a scale of eight bits.
impl Format for Blocks<'_, Q6K> {
    type Values = [__m256i; 2];
    const ORDER: &'static [u8] = &IN_ORDER;
    const HALVES: bool = true;

    #[inline(always)]
    fn place(&self) -> (*const u8, usize) {
        Blocks::place(*self)
    }

    #[inline(always)]
    unsafe fn factors(&self, row: usize, unit: usize, count: usize, out: &mut Factors) {
        let blocks = self.some(row, unit / PER_BLOCK, count / PER_BLOCK);
        let [first, second] = &mut out.halves;
        for (b, block) in blocks.iter().enumerate() {
            // SAFETY: contract of the trait.
            let d = unsafe { Narrow::half(block.d) };
            for i in 0..PER_BLOCK {
                first[PER_BLOCK * b + i] = d * f32::from(block.scales[2 * i] as i8);
                second[PER_BLOCK * b + i] = d * f32::from(block.scales[2 * i + 1] as i8);
            }
        }
    }

    #[inline(always)]
    unsafe fn unit(&self, row: usize, unit: usize) -> [__m256i; 2] {
        // SAFETY: contract of the trait: a quarter of the low and of the high bits of half a block.
        unsafe {
            let block = self.one(row, unit / PER_BLOCK);
            let (group, quarter) = (unit % PER_BLOCK / 4, unit % 4);
            let low = block.ql.as_ptr().add(64 * group + 32 * (quarter % 2));
            let high = block.qh.as_ptr().add(32 * group);
            let two = _mm_cvtsi32_si128(2 * quarter as i32);
            let upper = quarter >= 2;
            [six(low, upper, high, two), six(low.add(16), upper, high.add(16), two)]
        }
    }
}
