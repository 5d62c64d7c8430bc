//! The inner loops for each instruction set. All give the same bits.

/// Plain loops: what the others are tested against, and what they are compiled from where that is fast enough.
pub(super) mod portable {
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
    pub(in super::super) fn pack(
        values: &[f32],
        factor: f32,
        bounds: &[f32; 15],
        order: &[u8; 16],
        packed: &mut [u8],
    ) {
        const LANES: usize = 32;
        let mut lanes = [0f32; LANES];
        let mut ranks = [0u32; LANES];
        for (values, packed) in values.chunks(LANES).zip(packed.chunks_mut(LANES / 2)) {
            lanes.fill(0.0);
            for (lane, value) in lanes.iter_mut().zip(values) {
                *lane = value * factor;
            }
            ranks.fill(0);
            for bound in bounds {
                for (rank, lane) in ranks.iter_mut().zip(&lanes) {
                    *rank += (lane > bound) as u32;
                }
            }
            for (byte, pair) in packed.iter_mut().zip(ranks.chunks_exact(2)) {
                *byte = order[(pair[0] & 15) as usize] << 4 | order[(pair[1] & 15) as usize];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::super::FourBit;
    use super::portable;

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn decode_avx2(bits: &FourBit, start: usize, out: &mut [f32]) {
        bits.walk(start, out, |bytes, scale, code, out| pairs_avx2(bytes, scale, code, out));
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn decode_avx512(bits: &FourBit, start: usize, out: &mut [f32]) {
        bits.walk(start, out, |bytes, scale, code, out| pairs_avx512(bytes, scale, code, out));
    }

    /// 8 values from 4 bytes a turn: each byte widened to 64 bits, its nibbles moved to the two 32-bit halves.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn pairs_avx2(bytes: &[u8], scale: f32, code: &[f32; 16], out: &mut [f32]) {
        let (head, tail) = bytes.as_chunks::<4>();
        let (done, rest) = out.split_at_mut(head.len() * 8);
        // SAFETY: both halves of the 16 floats are loaded unaligned.
        let (low, high) = unsafe { (_mm256_loadu_ps(code.as_ptr()), _mm256_loadu_ps(code.as_ptr().add(8))) };
        let scales = _mm256_set1_ps(scale);
        let (low, high) = (_mm256_mul_ps(low, scales), _mm256_mul_ps(high, scales));
        for (four, out) in head.iter().zip(done.as_chunks_mut::<8>().0) {
            let wide = _mm256_cvtepu8_epi64(_mm_cvtsi32_si128(i32::from_le_bytes(*four)));
            let index = _mm256_or_si256(_mm256_slli_epi64::<32>(wide), _mm256_srli_epi64::<4>(wide));
            // The permutes look at three bits; the fourth, moved to the sign, chooses between them.
            let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            let value = _mm256_blendv_ps(
                _mm256_permutevar8x32_ps(low, index),
                _mm256_permutevar8x32_ps(high, index),
                upper,
            );
            // SAFETY: `out` is 8 floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) };
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

    #[target_feature(enable = "avx2")]
    pub(in super::super) fn pack_avx2(
        values: &[f32],
        factor: f32,
        bounds: &[f32; 15],
        order: &[u8; 16],
        packed: &mut [u8],
    ) {
        portable::pack(values, factor, bounds, order, packed);
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in super::super) fn pack_avx512(
        values: &[f32],
        factor: f32,
        bounds: &[f32; 15],
        order: &[u8; 16],
        packed: &mut [u8],
    ) {
        portable::pack(values, factor, bounds, order, packed);
    }
}
