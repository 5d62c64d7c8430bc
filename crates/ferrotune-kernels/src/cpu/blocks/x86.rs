//! Sixteen values in one register of AVX-512, or in two of AVX2.

use std::arch::x86_64::*;

use super::lanes::{EVEN_FIRST, Lanes};

/// One register: AVX-512 with BW and VL, and F16C.
#[derive(Clone, Copy)]
pub(super) struct Wide(__m512);

/// Two registers: AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(super) struct Narrow(__m256, __m256);

/// A half float.
///
/// # Safety
/// F16C.
#[inline(always)]
unsafe fn half(bytes: [u8; 2]) -> f32 {
    // SAFETY: contract of the function.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(i16::from_le_bytes(bytes))))) }
}

/// Six bits less 32 in bytes; see [`Lanes::six`].
///
/// # Safety
/// Both may be read for 16 bytes; AVX2.
#[inline(always)]
unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> __m128i {
    // SAFETY: contract of the function.
    unsafe {
        let (low, high) = (_mm_loadu_si128(low.cast()), _mm_loadu_si128(high.cast()));
        let low = if HIGH { _mm_srli_epi16::<4>(low) } else { low };
        let low = _mm_and_si128(low, _mm_set1_epi8(15));
        let high = match SHIFT {
            0 => _mm_slli_epi16::<4>(high),
            2 => _mm_slli_epi16::<2>(high),
            4 => high,
            _ => _mm_srli_epi16::<2>(high),
        };
        let high = _mm_and_si128(high, _mm_set1_epi8(0x30));
        _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32))
    }
}

// SAFETY: every method is used only where the instruction set is there; reads are within the contract.
unsafe impl Lanes for Wide {
    type Table = __m512;
    type Both = __m512;

    const ORDER: [usize; 32] = EVEN_FIRST;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: contract of the trait, as in all methods.
        Wide(unsafe { _mm512_set1_ps(v) })
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_loadu_ps(p) })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(p, self.0) }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()))) })
    }

    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) })
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Self::Table {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: Self::Table) -> (Self, Self) {
        // SAFETY: as above. The permute looks at four bits only, so the low nibbles need not be masked.
        unsafe {
            let index = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let low = _mm512_permutexvar_ps(index, table);
            (Wide(low), Wide(_mm512_permutexvar_ps(_mm512_srli_epi32::<4>(index), table)))
        }
    }

    #[inline(always)]
    unsafe fn table_of_both(values: &[f32; 16]) -> Self::Both {
        // SAFETY: as above.
        unsafe { Self::table(values) }
    }

    #[inline(always)]
    unsafe fn both(p: *const u8, table: Self::Both) -> (Self, Self) {
        // SAFETY: as above.
        let (low, high) = unsafe { Self::lookup(p, table) };
        (high, low)
    }

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> (Self, Self) {
        const COUNT: [f32; 16] =
            [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
        // SAFETY: as above.
        unsafe { Self::lookup(p, Self::table(&COUNT)) }
    }

    #[inline(always)]
    unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> Self {
        // SAFETY: as above.
        Wide(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(six::<HIGH, SHIFT>(low, high))) })
    }

    #[inline(always)]
    unsafe fn halves<const STRIDE: usize>(p: *const u8, n: usize) -> (Self, Self) {
        // SAFETY: as above; words beyond `n` are masked.
        unsafe {
            let count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let (zero, step) = (_mm512_setzero_si512(), _mm512_set1_epi32(STRIDE as i32));
            let mask = ((1u32 << n) - 1) as __mmask16;
            let places = _mm512_mullo_epi32(count, step);
            let words = _mm512_mask_i32gather_epi32::<1>(zero, mask, places, p.cast());
            let wide = |words| Wide(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)));
            (wide(words), wide(_mm512_srli_epi32::<16>(words)))
        }
    }

    #[inline(always)]
    unsafe fn half(bytes: [u8; 2]) -> f32 {
        // SAFETY: as above.
        unsafe { half(bytes) }
    }
}

impl Narrow {
    /// 16 signed bytes as f32.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn of(bytes: __m128i) -> Self {
        // SAFETY: contract of the function.
        unsafe {
            let half = |x| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x));
            Narrow(half(bytes), half(_mm_srli_si128::<8>(bytes)))
        }
    }

    /// The low nibbles of bytes looked up.
    ///
    /// # Safety
    /// AVX2.
    #[inline(always)]
    unsafe fn find(bytes: __m128i, (low, high): (__m256, __m256)) -> Self {
        // SAFETY: contract of the function. The permutes look at three bits; the fourth, moved to the sign, chooses
        // between them.
        unsafe {
            let half = |x| {
                let index = _mm256_cvtepu8_epi32(x);
                let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
                let (low, high) =
                    (_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index));
                _mm256_blendv_ps(low, high, upper)
            };
            Narrow(half(bytes), half(_mm_srli_si128::<8>(bytes)))
        }
    }
}

// SAFETY: as for `Wide`.
unsafe impl Lanes for Narrow {
    type Table = (__m256, __m256);
    /// Each of the four bytes of the values.
    type Both = [__m256i; 4];

    /// Four of the low nibbles and four of the high ones in each register.
    const ORDER: [usize; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            let nibble = i / 8 * 4 + i % 4;
            order[i] = 2 * nibble + (i % 8 < 4) as usize;
            i += 1;
        }
        order
    };

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: contract of the trait, as in all methods.
        unsafe { Narrow(_mm256_set1_ps(v), _mm256_set1_ps(v)) }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: as above.
        unsafe { Narrow(_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(p, self.0);
            _mm256_storeu_ps(p.add(8), self.1);
        }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { Narrow(_mm256_mul_ps(self.0, b.0), _mm256_mul_ps(self.1, b.1)) }
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        unsafe { Narrow(_mm256_fmadd_ps(self.0, b.0, c.0), _mm256_fmadd_ps(self.1, b.1, c.1)) }
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let eight = _mm256_add_ps(self.0, self.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            let half = |x| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
            Narrow(half(bytes), half(_mm_srli_si128::<8>(bytes)))
        }
    }

    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self::of(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Self::Table {
        // SAFETY: as above.
        unsafe { (_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))) }
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: Self::Table) -> (Self, Self) {
        // SAFETY: as above. Bits from neighbouring bytes come into the upper nibbles only, which nobody looks at.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            (Self::find(bytes, table), Self::find(_mm_srli_epi16::<4>(bytes), table))
        }
    }

    #[inline(always)]
    unsafe fn table_of_both(values: &[f32; 16]) -> Self::Both {
        let mut bytes = [[0u8; 16]; 4];
        for (i, value) in values.iter().enumerate() {
            for (part, byte) in bytes.iter_mut().zip(value.to_le_bytes()) {
                part[i] = byte;
            }
        }
        // SAFETY: as above; each table is 16 bytes.
        unsafe {
            let mut tables = [_mm256_setzero_si256(); 4];
            for (table, bytes) in tables.iter_mut().zip(&bytes) {
                *table = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast()));
            }
            tables
        }
    }

    #[inline(always)]
    unsafe fn both(p: *const u8, [a, b, c, d]: Self::Both) -> (Self, Self) {
        // SAFETY: as above. A shuffle looks 32 bytes up at a time, so the four bytes of each value come from a table each, and
        // are then put together: fewer instructions than looking whole values up, 8 at a time.
        unsafe {
            let (bytes, mask) = (_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
            let index = _mm256_set_m128i(high, _mm_and_si128(bytes, mask));
            let (a, b) = (_mm256_shuffle_epi8(a, index), _mm256_shuffle_epi8(b, index));
            let (c, d) = (_mm256_shuffle_epi8(c, index), _mm256_shuffle_epi8(d, index));
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let first = [_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)];
            let (ab, cd) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            let second = [_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)];
            (
                Narrow(_mm256_castsi256_ps(first[0]), _mm256_castsi256_ps(first[1])),
                Narrow(_mm256_castsi256_ps(second[0]), _mm256_castsi256_ps(second[1])),
            )
        }
    }

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> (Self, Self) {
        // SAFETY: as above.
        unsafe {
            let (bytes, mask) = (_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
            let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
            (Self::of(_mm_and_si128(bytes, mask)), Self::of(high))
        }
    }

    #[inline(always)]
    unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> Self {
        // SAFETY: as above.
        unsafe { Self::of(six::<HIGH, SHIFT>(low, high)) }
    }

    #[inline(always)]
    unsafe fn halves<const STRIDE: usize>(p: *const u8, n: usize) -> (Self, Self) {
        // SAFETY: as above; words beyond `n` are masked.
        unsafe {
            let (n, step) = (_mm256_set1_epi32(n as i32), _mm256_set1_epi32(STRIDE as i32));
            let words = |count| {
                let (zero, places) = (_mm256_setzero_si256(), _mm256_mullo_epi32(count, step));
                _mm256_mask_i32gather_epi32::<1>(zero, p.cast(), places, _mm256_cmpgt_epi32(n, count))
            };
            let a = words(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
            let b = words(_mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
            let eight = |words| {
                let packed = _mm256_packus_epi32(words, words);
                let low = _mm256_castsi256_si128(packed);
                _mm256_cvtph_ps(_mm_unpacklo_epi64(low, _mm256_extracti128_si256::<1>(packed)))
            };
            let mask = _mm256_set1_epi32(0xffff);
            let low = Narrow(eight(_mm256_and_si256(a, mask)), eight(_mm256_and_si256(b, mask)));
            let high = |words| eight(_mm256_srli_epi32::<16>(words));
            (low, Narrow(high(a), high(b)))
        }
    }

    #[inline(always)]
    unsafe fn half(bytes: [u8; 2]) -> f32 {
        // SAFETY: as above.
        unsafe { half(bytes) }
    }
}
