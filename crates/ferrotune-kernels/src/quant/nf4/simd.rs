//! The inner loops for each instruction set. All give the same bits.

/// Plain loops: what the others are tested against, and what they are compiled from where that is fast enough.
pub(super) mod portable {
    use super::super::Search;

    /// Decodes whole bytes.
    #[inline(always)]
    pub(in super::super) fn pairs(bytes: &[u8], scale: f32, code: &[f32; 16], out: &mut [f32]) {
        for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
            pair[0] = code[(byte >> 4) as usize] * scale;
            pair[1] = code[(byte & 15) as usize] * scale;
        }
    }

    /// Largest magnitude; infinity or NaN if there is one.
    #[inline(always)]
    pub(in super::super) fn absmax(values: &[f32]) -> f32 {
        // As integers, magnitudes of floats are in the same order, and anything not finite is above all others.
        f32::from_bits(values.iter().fold(0u32, |m, v| m.max(v.to_bits() & 0x7fff_ffff)))
    }

    /// Nearest code of `values * factor`, two in a byte; an odd last value is paired with a zero.
    #[inline(always)]
    pub(in super::super) fn pack(values: &[f32], factor: f32, search: &Search, packed: &mut [u8]) {
        let nibble = |value: f32| {
            let rank = search.bounds.iter().filter(|&&bound| value > bound).count();
            search.order[rank & 15] as u8
        };
        for (pair, byte) in values.chunks(2).zip(packed) {
            *byte = nibble(pair[0] * factor) << 4 | nibble(pair.get(1).map_or(0.0, |v| v * factor));
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub(super) mod arm;

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::super::{FourBit, Search};
    use super::portable;

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn decode_avx2(bits: &FourBit, start: usize, out: &mut [f32]) {
        bits.walk(start, out, |bytes, scale, code, out| pairs_avx2(bytes, scale, code, out));
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn decode_avx512(bits: &FourBit, start: usize, out: &mut [f32]) {
        bits.walk(start, out, |bytes, scale, code, out| pairs_avx512(bytes, scale, code, out));
    }

    /// The scaled table in four, one for each byte of its floats: shuffles then look up 32 bytes at once. Each is twice 16
    /// bytes.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn tables_avx2(code: &[f32; 16], scale: f32) -> [__m256i; 4] {
        let scale = _mm_set1_ps(scale);
        // SAFETY: each loads four floats of the sixteen, unaligned.
        let four = |i: usize| unsafe { _mm_mul_ps(_mm_loadu_ps(code.as_ptr().add(i)), scale) };
        // The order in which the next steps leave them as they should be.
        let low = _mm256_castps_si256(_mm256_set_m128(four(8), four(0)));
        let high = _mm256_castps_si256(_mm256_set_m128(four(12), four(4)));
        // In each half: the first bytes of its four floats, the second ones, ...
        let bytes =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
        let (low, high) = (_mm256_shuffle_epi8(low, bytes), _mm256_shuffle_epi8(high, bytes));
        let (first, last) = (_mm256_unpacklo_epi32(low, high), _mm256_unpackhi_epi32(low, high));
        [
            _mm256_permute4x64_epi64::<0b10_00_10_00>(first),
            _mm256_permute4x64_epi64::<0b11_01_11_01>(first),
            _mm256_permute4x64_epi64::<0b10_00_10_00>(last),
            _mm256_permute4x64_epi64::<0b11_01_11_01>(last),
        ]
    }

    /// 32 values from 16 bytes, in four registers.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(crate) fn values_avx2(tables: &[__m256i; 4], bytes: &[u8; 16]) -> [__m256; 4] {
        // SAFETY: 16 bytes are loaded unaligned.
        let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
        // Each byte twice, for its two values; four values in the lower half, the next four in the upper.
        let twice = _mm256_setr_epi8(
            0, 0, 1, 1, 4, 4, 5, 5, 8, 8, 9, 9, 12, 12, 13, 13, 2, 2, 3, 3, 6, 6, 7, 7, 10, 10, 11, 11, 14,
            14, 15, 15,
        );
        let twice = _mm256_shuffle_epi8(bytes, twice);
        // The first value is the high nibble.
        let index = _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<4>(twice), _mm256_set1_epi16(0x000f)),
            _mm256_and_si256(twice, _mm256_set1_epi16(0x0f00)),
        );
        let [a, b, c, d] = *tables;
        let (a, b) = (_mm256_shuffle_epi8(a, index), _mm256_shuffle_epi8(b, index));
        let (c, d) = (_mm256_shuffle_epi8(c, index), _mm256_shuffle_epi8(d, index));
        let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
        let (ef, gh) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
        [
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(ab, cd)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(ab, cd)),
            _mm256_castsi256_ps(_mm256_unpacklo_epi16(ef, gh)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(ef, gh)),
        ]
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn pairs_avx2(bytes: &[u8], scale: f32, code: &[f32; 16], out: &mut [f32]) {
        let (head, tail) = bytes.as_chunks::<16>();
        let (done, rest) = out.split_at_mut(head.len() * 32);
        let tables = tables_avx2(code, scale);
        for (bytes, out) in head.iter().zip(done.as_chunks_mut::<32>().0) {
            for (values, out) in values_avx2(&tables, bytes).into_iter().zip(out.as_chunks_mut::<8>().0) {
                // SAFETY: `out` is 8 floats.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
            }
        }
        portable::pairs(tail, scale, code, rest);
    }

    /// 16 values from 8 bytes a turn, by one permute of the scaled table.
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn pairs_avx512(bytes: &[u8], scale: f32, code: &[f32; 16], out: &mut [f32]) {
        let (head, tail) = bytes.as_chunks::<8>();
        let (done, rest) = out.split_at_mut(head.len() * 16);
        // SAFETY: 16 floats are loaded unaligned.
        let table = _mm512_mul_ps(unsafe { _mm512_loadu_ps(code.as_ptr()) }, _mm512_set1_ps(scale));
        for (eight, out) in head.iter().zip(done.as_chunks_mut::<16>().0) {
            let wide = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*eight)));
            // The permute looks at four bits only, so the low half need not be masked.
            let index = _mm512_or_si512(_mm512_slli_epi64::<32>(wide), _mm512_srli_epi64::<4>(wide));
            // SAFETY: `out` is 16 floats.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_permutexvar_ps(index, table)) };
        }
        portable::pairs(tail, scale, code, rest);
    }

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn absmax_avx2(values: &[f32]) -> f32 {
        portable::absmax(values)
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn absmax_avx512(values: &[f32]) -> f32 {
        portable::absmax(values)
    }

    /// 8 values a turn: a value's rank is the number of bounds below it.
    #[target_feature(enable = "avx2")]
    pub(in super::super) fn pack_avx2(values: &[f32], factor: f32, search: &Search, packed: &mut [u8]) {
        let (head, tail) = values.as_chunks::<8>();
        let (done, rest) = packed.split_at_mut(head.len() * 4);
        let factors = _mm256_set1_ps(factor);
        for (eight, out) in head.iter().zip(done.as_chunks_mut::<4>().0) {
            // SAFETY: `eight` is 8 floats.
            let value = _mm256_mul_ps(unsafe { _mm256_loadu_ps(eight.as_ptr()) }, factors);
            let mut rank = _mm256_setzero_si256();
            for &bound in &search.bounds[..15] {
                let above = _mm256_cmp_ps::<_CMP_GT_OQ>(value, _mm256_set1_ps(bound));
                rank = _mm256_sub_epi32(rank, _mm256_castps_si256(above));
            }
            let mut ranks = [0u32; 8];
            // SAFETY: `ranks` is 8 integers of 32 bits.
            unsafe { _mm256_storeu_si256(ranks.as_mut_ptr().cast(), rank) };
            for (byte, pair) in out.iter_mut().zip(ranks.as_chunks::<2>().0) {
                *byte =
                    (search.order[pair[0] as usize & 15] << 4 | search.order[pair[1] as usize & 15]) as u8;
            }
        }
        portable::pack(tail, factor, search, rest);
    }

    /// 16 values a turn: a binary search in the bounds, each step one permute.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn pack_avx512(values: &[f32], factor: f32, search: &Search, packed: &mut [u8]) {
        let (head, tail) = values.as_chunks::<16>();
        let (done, rest) = packed.split_at_mut(head.len() * 8);
        let factors = _mm512_set1_ps(factor);
        // SAFETY: both tables are 16 numbers of 32 bits, loaded unaligned.
        let (bounds, order) = unsafe {
            (_mm512_loadu_ps(search.bounds.as_ptr()), _mm512_loadu_si512(search.order.as_ptr().cast()))
        };
        for (sixteen, out) in head.iter().zip(done.as_chunks_mut::<8>().0) {
            // SAFETY: `sixteen` is 16 floats.
            let value = _mm512_mul_ps(unsafe { _mm512_loadu_ps(sixteen.as_ptr()) }, factors);
            let mut rank = _mm512_setzero_si512();
            for step in [8, 4, 2, 1] {
                let step = _mm512_set1_epi32(step);
                let next = _mm512_add_epi32(rank, step);
                let bound = _mm512_permutexvar_ps(_mm512_sub_epi32(next, _mm512_set1_epi32(1)), bounds);
                rank = _mm512_mask_mov_epi32(rank, _mm512_cmp_ps_mask::<_CMP_GT_OQ>(value, bound), next);
            }
            let code = _mm512_permutexvar_epi32(rank, order);
            // Two codes lie in each 64 bits, the first in the low half.
            let pair = _mm512_or_si512(_mm512_slli_epi64::<4>(code), _mm512_srli_epi64::<32>(code));
            *out = _mm_cvtsi128_si64(_mm512_cvtepi64_epi8(pair)).to_le_bytes();
        }
        portable::pack(tail, factor, search, rest);
    }
}
