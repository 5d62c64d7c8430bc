//! Sixteen rows of words become sixteen neighbouring columns.

use super::Isa;

/// Rows that are turned at a time.
pub(crate) const ROWS: usize = 16;

/// `out[i * step + j] = word i of row j`, for `rows` (at most 16) rows that begin `stride` bytes apart in `from`, and
/// `words` of each.
pub(crate) fn transpose(
    isa: Isa,
    from: &[u8],
    stride: usize,
    (rows, words): (usize, usize),
    out: &mut [f32],
    step: usize,
) {
    if rows == 0 || words == 0 {
        return;
    }
    assert!(rows <= ROWS && (rows - 1) * stride + words * 4 <= from.len(), "rows to transpose");
    assert!((words - 1) * step + rows <= out.len(), "transposed rows");
    let done = if rows == ROWS { square(isa, from, stride, words, out, step) } else { 0 };
    for i in done..words {
        for j in 0..rows {
            let word = &from[j * stride + 4 * i..][..4];
            out[i * step + j] = f32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        }
    }
}

/// Turns as many words as the instruction set turns at a time, and gives how many that were.
fn square(isa: Isa, from: &[u8], stride: usize, words: usize, out: &mut [f32], step: usize) -> usize {
    #[cfg(target_arch = "aarch64")]
    if isa == Isa::Neon {
        let done = words / 4 * 4;
        for i in (0..done).step_by(4) {
            for rows in (0..ROWS).step_by(4) {
                // SAFETY: 4 words of 4 rows are inside both by the checks of the caller.
                unsafe {
                    let from = from.as_ptr().add(rows * stride + 4 * i);
                    arm::four(from, stride, out.as_mut_ptr().add(i * step + rows), step);
                }
            }
        }
        return done;
    }
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Portable | Isa::Neon => {}
        Isa::Avx2 => {
            let done = words / 8 * 8;
            for i in (0..done).step_by(8) {
                for half in [0, 8] {
                    // SAFETY: 8 words of 8 rows are inside both by the checks of the caller.
                    unsafe {
                        let from = from.as_ptr().add(half * stride + 4 * i);
                        x86::eight(from, stride, out.as_mut_ptr().add(i * step + half), step);
                    }
                }
            }
            return done;
        }
        Isa::Avx512 | Isa::Avx512Bf16 => {
            let done = words / 16 * 16;
            for i in (0..done).step_by(16) {
                // SAFETY: 16 words of 16 rows are inside both by the checks of the caller.
                unsafe {
                    x86::sixteen(from.as_ptr().add(4 * i), stride, out.as_mut_ptr().add(i * step), step);
                }
            }
            return done;
        }
    }
    let _ = (isa, from, stride, words, out, step);
    0
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    /// # Safety
    /// 4 words are readable from `from + j * stride` on and writable from `out + j * step` on, for `j < 4`.
    pub(super) unsafe fn four(from: *const u8, stride: usize, out: *mut f32, step: usize) {
        // SAFETY: contract of the function; every 64-bit Arm has NEON.
        unsafe {
            // Bytes, as rows of a file need not lie on multiples of four.
            let row = |j: usize| vreinterpretq_f32_u8(vld1q_u8(from.add(j * stride)));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            // Pairs of rows, then four rows of a column.
            let (ab, cd) = (vtrn1q_f32(a, b), vtrn1q_f32(c, d));
            let (ab_odd, cd_odd) = (vtrn2q_f32(a, b), vtrn2q_f32(c, d));
            let wide = |v| vreinterpretq_f64_f32(v);
            let put = |i: usize, v| vst1q_f32(out.add(i * step), vreinterpretq_f32_f64(v));
            put(0, vtrn1q_f64(wide(ab), wide(cd)));
            put(1, vtrn1q_f64(wide(ab_odd), wide(cd_odd)));
            put(2, vtrn2q_f64(wide(ab), wide(cd)));
            put(3, vtrn2q_f64(wide(ab_odd), wide(cd_odd)));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::array::from_fn;

    /// # Safety
    /// 8 words are readable from `from + j * stride` on and writable from `out + j * step` on, for `j < 8`; AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn eight(from: *const u8, stride: usize, out: *mut f32, step: usize) {
        // SAFETY: contract of the function.
        unsafe {
            let r: [__m256; 8] = from_fn(|j| _mm256_loadu_ps(from.add(j * stride).cast()));
            // In each 128-bit half: pairs of rows, then four rows of one column.
            let t: [__m256; 8] = from_fn(|i| match i % 2 {
                0 => _mm256_unpacklo_ps(r[i], r[i + 1]),
                _ => _mm256_unpackhi_ps(r[i - 1], r[i]),
            });
            let u: [__m256d; 8] = from_fn(|i| {
                let four = i / 4 * 4;
                let low = i % 4 / 2;
                let (a, b) = (_mm256_castps_pd(t[four + low]), _mm256_castps_pd(t[four + 2 + low]));
                if i % 2 == 0 { _mm256_unpacklo_pd(a, b) } else { _mm256_unpackhi_pd(a, b) }
            });
            for c in 0..4 {
                let (a, b) = (_mm256_castpd_ps(u[c]), _mm256_castpd_ps(u[4 + c]));
                _mm256_storeu_ps(out.add(c * step), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(out.add((4 + c) * step), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }

    /// # Safety
    /// AVX-512; 16 rows of 16 words from `from`, `stride` bytes apart, and 16 rows of `out`, `step` words apart, are valid.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn sixteen(from: *const u8, stride: usize, out: *mut f32, step: usize) {
        // SAFETY: contract of the function.
        unsafe {
            let r: [__m512i; 16] = from_fn(|j| _mm512_loadu_si512(from.add(j * stride).cast()));
            let t: [__m512i; 16] = from_fn(|i| match i % 2 {
                0 => _mm512_unpacklo_epi32(r[i], r[i + 1]),
                _ => _mm512_unpackhi_epi32(r[i - 1], r[i]),
            });
            // u[4 q + c]: in each 128-bit quarter L, rows 4 q .. 4 q + 4 of column 4 L + c.
            let u: [__m512i; 16] = from_fn(|i| {
                let (four, low) = (i / 4 * 4, i % 4 / 2);
                let (a, b) = (t[four + low], t[four + 2 + low]);
                if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) }
            });
            for c in 0..4 {
                let even = [0, 8].map(|q| _mm512_shuffle_i32x4::<0x88>(u[q + c], u[q + 4 + c]));
                let odd = [0, 8].map(|q| _mm512_shuffle_i32x4::<0xdd>(u[q + c], u[q + 4 + c]));
                let store = |column: usize, v| _mm512_storeu_si512(out.add(column * step).cast(), v);
                store(c, _mm512_shuffle_i32x4::<0x88>(even[0], even[1]));
                store(4 + c, _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]));
                store(8 + c, _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]));
                store(12 + c, _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_turns_every_size() {
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            for (rows, words, stride, step) in
                [(16, 16, 64, 16), (16, 37, 150, 64), (5, 9, 36, 5), (16, 7, 30, 17)]
            {
                let from: Vec<u8> = (0..16 * stride + 64).map(|i| (i * 31 % 251) as u8).collect();
                let mut out = vec![-1.0; words * step];
                transpose(isa, &from, stride, (rows, words), &mut out, step);
                for i in 0..words {
                    for j in 0..step {
                        let at = j * stride + 4 * i;
                        let want = match j < rows {
                            true => u32::from_ne_bytes(from[at..at + 4].try_into().unwrap()),
                            false => (-1.0f32).to_bits(),
                        };
                        assert_eq!(out[i * step + j].to_bits(), want, "{isa:?} {rows} {words} at {i} {j}");
                    }
                }
            }
        }
    }
}
