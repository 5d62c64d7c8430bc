//! Inner products of a few vectors with one row of a weight: what decoding a token at a time is made of. Spelled out, as
//! compilers like to keep running sums in memory.

use half::bf16;

use super::Isa;
use super::math::dot;
use super::words::widen;

/// `out[i] = x_i . w` for vectors of `w`'s length that lie one after the other.
pub(crate) fn dots(isa: Isa, x: &[f32], w: &[f32], out: &mut [f32]) {
    for (x, o) in x.chunks_exact(w.len()).zip(out) {
        *o = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set is that of the device; both have one length.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::wide(x, w.as_ptr(), x86::load) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::narrow(x, w.as_ptr(), x86::load_half) },
            _ => dot(x, w),
        };
    }
}

/// The same for a row that is bf16.
pub(crate) fn dots_bf16(isa: Isa, x: &[f32], w: &[bf16], out: &mut [f32]) {
    for (x, o) in x.chunks_exact(w.len()).zip(out) {
        *o = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set is that of the device; both have one length.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::wide(x, w.as_ptr(), x86::widened) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::narrow(x, w.as_ptr(), x86::widened_half) },
            _ => x.iter().zip(w).map(|(x, w)| x * widen(*w)).sum(),
        };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    /// Elements of a row as f32, from the start or what the mask says.
    type Wide<T> = unsafe fn(*const T, __mmask16) -> __m512;
    type Half<T> = unsafe fn(*const T) -> __m256;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn load(p: *const f32, mask: __mmask16) -> __m512 {
        // SAFETY: the elements of the mask are readable.
        unsafe { _mm512_maskz_loadu_ps(mask, p) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn widened(p: *const bf16, mask: __mmask16) -> __m512 {
        // SAFETY: as above.
        let x = unsafe { _mm256_maskz_loadu_epi16(mask, p.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) unsafe fn load_half(p: *const f32) -> __m256 {
        // SAFETY: 8 elements are readable.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) unsafe fn widened_half(p: *const bf16) -> __m256 {
        // SAFETY: as above.
        let x = unsafe { _mm_loadu_si128(p.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
    }

    /// # Safety
    /// `w` has the length of `x`; AVX-512 with BW and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    pub(super) unsafe fn wide<T>(x: &[f32], w: *const T, read: Wide<T>) -> f32 {
        const ALL: __mmask16 = !0;
        // SAFETY: every read is inside `x` and `w`, the last by its mask.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); 4];
            let whole = x.len() / 64 * 64;
            for at in (0..whole).step_by(64) {
                for j in 0..4 {
                    let x = _mm512_loadu_ps(x.as_ptr().add(at + 16 * j));
                    sums[j] = _mm512_fmadd_ps(x, read(w.add(at + 16 * j), ALL), sums[j]);
                }
            }
            for at in (whole..x.len()).step_by(16) {
                let mask = ALL >> (16 - (x.len() - at).min(16));
                let x = load(x.as_ptr().add(at), mask);
                sums[0] = _mm512_fmadd_ps(x, read(w.add(at), mask), sums[0]);
            }
            let [a, b, c, d] = sums;
            _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
        }
    }

    /// # Safety
    /// `w` has the length of `x`; AVX2 and FMA. `read` takes 8 elements.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    pub(super) unsafe fn narrow<T: Copy>(x: &[f32], w: *const T, read: Half<T>) -> f32
    where
        f32: FromElement<T>,
    {
        // SAFETY: every read is inside `x` and `w`.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            let whole = x.len() / 32 * 32;
            for at in (0..whole).step_by(32) {
                for j in 0..4 {
                    let x = _mm256_loadu_ps(x.as_ptr().add(at + 8 * j));
                    sums[j] = _mm256_fmadd_ps(x, read(w.add(at + 8 * j)), sums[j]);
                }
            }
            let [a, b, c, d] = sums;
            let mut lanes = [0.0f32; 8];
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            _mm256_storeu_ps(lanes.as_mut_ptr(), sum);
            let rest = (whole..x.len()).map(|i| x[i] * f32::from_element(*w.add(i)));
            lanes.into_iter().chain(rest).sum()
        }
    }

    /// An element as f32.
    pub(super) trait FromElement<T> {
        fn from_element(v: T) -> f32;
    }

    impl FromElement<f32> for f32 {
        fn from_element(v: f32) -> f32 {
            v
        }
    }

    impl FromElement<bf16> for f32 {
        fn from_element(v: bf16) -> f32 {
            super::widen(v)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn every_instruction_set_and_length_agrees() {
        let s = Stream::new(9, "dots", 0);
        for k in [1, 7, 16, 31, 64, 100, 576] {
            let x: Vec<f32> = (0..3 * k as u64).map(|i| s.normal(i)).collect();
            let w: Vec<bf16> = (0..k as u64).map(|i| bf16::from_f32(s.normal(9000 + i))).collect();
            let wide: Vec<f32> = w.iter().map(|w| w.to_f32()).collect();
            let want: Vec<f64> = x
                .chunks_exact(k)
                .map(|x| x.iter().zip(&wide).map(|(x, w)| *x as f64 * *w as f64).sum())
                .collect();
            for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
                let mut found = [[0.0f32; 3]; 2];
                dots(isa, &x, &wide, &mut found[0]);
                dots_bf16(isa, &x, &w, &mut found[1]);
                for found in found {
                    for (found, want) in found.iter().zip(&want) {
                        assert!((*found as f64 - want).abs() < 1e-4, "{isa:?} {k}: {found} {want}");
                    }
                }
            }
        }
    }
}
