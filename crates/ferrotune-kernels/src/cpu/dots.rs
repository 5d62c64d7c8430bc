//! Inner products of a few vectors with one row of a weight: what decoding a token at a time is made of. Spelled out, as
//! compilers like to keep running sums in memory.

use half::bf16;

use super::Isa;
use super::math::{LANES, reduce};
use super::words::widen;

/// `out[i] = x_i . w` for vectors of `w`'s length that lie one after the other; `w` is f32 or bf16.
pub(crate) fn dots<T: Element>(isa: Isa, x: &[f32], w: &[T], out: &mut [f32]) {
    for (x, o) in x.chunks_exact(w.len()).zip(out) {
        *o = match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instruction set is that of the device; both have one length.
            Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::wide(x, w) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { x86::narrow(x, w) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: both have one length.
            Isa::Neon => unsafe { arm::dot(x, w) },
            _ => T::plain(x, w),
        };
    }
}

/// `out[j] = x . w_j` for rows of `w` that are `stride` apart.
pub(crate) fn dots_rows<T: Element>(isa: Isa, x: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
    if let Some(last) = out.len().checked_sub(1) {
        assert!(last * stride + x.len() <= w.len(), "rows outside the matrix");
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set is that of the device; the rows are inside by the check above.
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::wide_rows(x, w, stride, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::narrow_rows(x, w, stride, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: a row has the length of `x`.
        Isa::Neon => out
            .iter_mut()
            .enumerate()
            .for_each(|(j, o)| *o = unsafe { arm::dot(x, &w[j * stride..][..x.len()]) }),
        _ => out.iter_mut().enumerate().for_each(|(j, o)| *o = T::plain(x, &w[j * stride..][..x.len()])),
    }
}

/// `out = sum of p[j] w_j` for rows of `w` that are `stride` apart.
pub(crate) fn sum_rows<T: Element>(isa: Isa, p: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
    if let Some(last) = p.len().checked_sub(1) {
        assert!(last * stride + out.len() <= w.len(), "rows outside the matrix");
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set is that of the device; the rows are inside by the check above.
        Isa::Avx512 | Isa::Avx512Bf16 => unsafe { x86::wide_sum(p, w, stride, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { x86::narrow_sum(p, w, stride, out) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: the rows are inside by the check above.
        Isa::Neon => unsafe { arm::sum(p, w, stride, out) },
        _ => {
            out.fill(0.0);
            for (j, p) in p.iter().enumerate() {
                out.iter_mut().zip(&w[j * stride..]).for_each(|(o, w)| *o += p * w.value());
            }
        }
    }
}

/// What a row of a weight is made of.
pub(crate) trait Element: Copy {
    /// The value as f32.
    fn value(self) -> f32;

    /// The product in plain Rust, in the order of [`dot`](super::math::dot).
    fn plain(x: &[f32], w: &[Self]) -> f32 {
        let mut sums = [0.0f32; LANES];
        for (x, w) in x.chunks(LANES).zip(w.chunks(LANES)) {
            for (sum, (x, w)) in sums.iter_mut().zip(x.iter().zip(w)) {
                *sum += x * w.value();
            }
        }
        reduce(sums)
    }

    /// 16 elements as f32, those of the mask.
    ///
    /// # Safety
    /// They are readable; AVX-512 with BW and VL.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(p: *const Self, mask: u16) -> std::arch::x86_64::__m512;

    /// 8 elements as f32.
    ///
    /// # Safety
    /// They are readable; AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(p: *const Self) -> std::arch::x86_64::__m256;

    /// 4 elements as f32.
    ///
    /// # Safety
    /// They are readable.
    #[cfg(target_arch = "aarch64")]
    unsafe fn four(p: *const Self) -> std::arch::aarch64::float32x4_t;
}

impl Element for f32 {
    fn value(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(p: *const f32, mask: u16) -> std::arch::x86_64::__m512 {
        // SAFETY: contract of the function.
        unsafe { std::arch::x86_64::_mm512_maskz_loadu_ps(mask, p) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(p: *const f32) -> std::arch::x86_64::__m256 {
        // SAFETY: contract of the function.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(p) }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    unsafe fn four(p: *const f32) -> std::arch::aarch64::float32x4_t {
        // SAFETY: contract of the function.
        unsafe { std::arch::aarch64::vld1q_f32(p) }
    }
}

impl Element for bf16 {
    fn value(self) -> f32 {
        widen(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(p: *const bf16, mask: u16) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::*;
        // SAFETY: contract of the function.
        unsafe {
            let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(p: *const bf16) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::*;
        // SAFETY: contract of the function.
        unsafe {
            let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    unsafe fn four(p: *const bf16) -> std::arch::aarch64::float32x4_t {
        use std::arch::aarch64::*;
        // SAFETY: contract of the function.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast()))) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Element;

    /// Running sums: an addition takes as long as several can begin.
    const SUMS: usize = 8;

    /// # Safety
    /// `w` has the length of `x`.
    pub(super) unsafe fn dot<T: Element>(x: &[f32], w: &[T]) -> f32 {
        let whole = x.len() / (4 * SUMS) * (4 * SUMS);
        // SAFETY: every read is inside `x` and `w`, 4 elements at a time; every 64-bit Arm has NEON.
        let sum = unsafe {
            let mut sums = [vdupq_n_f32(0.0); SUMS];
            for at in (0..whole).step_by(4 * SUMS) {
                for (j, sum) in sums.iter_mut().enumerate() {
                    let at = at + 4 * j;
                    *sum = vfmaq_f32(*sum, vld1q_f32(x.as_ptr().add(at)), T::four(w.as_ptr().add(at)));
                }
            }
            let mut all = sums[0];
            for sum in &sums[1..] {
                all = vaddq_f32(all, *sum);
            }
            vaddvq_f32(all)
        };
        let rest = x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w.value());
        sum + rest.sum::<f32>()
    }

    /// # Safety
    /// Rows of `out`'s length are inside `w`.
    pub(super) unsafe fn sum<T: Element>(p: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
        let (chunks, tail) = out.as_chunks_mut::<{ 4 * SUMS }>();
        let whole = 4 * SUMS * chunks.len();
        for (c, out) in chunks.iter_mut().enumerate() {
            // SAFETY: contract of the function; every 64-bit Arm has NEON.
            unsafe {
                let mut sums = [vdupq_n_f32(0.0); SUMS];
                for (j, p) in p.iter().enumerate() {
                    let row = w.as_ptr().add(j * stride + 4 * SUMS * c);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = vfmaq_n_f32(*sum, T::four(row.add(4 * i)), *p);
                    }
                }
                for (i, sum) in sums.iter().enumerate() {
                    vst1q_f32(out.as_mut_ptr().add(4 * i), *sum);
                }
            }
        }
        for (i, out) in tail.iter_mut().enumerate() {
            *out = p.iter().enumerate().map(|(j, p)| p * w[j * stride + whole + i].value()).sum();
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Element;

    /// # Safety
    /// `w` has the length of `x`; AVX-512 with BW and VL.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn wide<T: Element>(x: &[f32], w: &[T]) -> f32 {
        const ALL: __mmask16 = !0;
        let (x, w, n) = (x.as_ptr(), w.as_ptr(), x.len());
        // SAFETY: every read is inside `x` and `w`, the last by its mask.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); 4];
            let whole = n / 64 * 64;
            for at in (0..whole).step_by(64) {
                for j in 0..4 {
                    let at = at + 16 * j;
                    sums[j] =
                        _mm512_fmadd_ps(_mm512_loadu_ps(x.add(at)), T::sixteen(w.add(at), ALL), sums[j]);
                }
            }
            for at in (whole..n).step_by(16) {
                let mask = ALL >> (16 - (n - at).min(16));
                let x = _mm512_maskz_loadu_ps(mask, x.add(at));
                sums[0] = _mm512_fmadd_ps(x, T::sixteen(w.add(at), mask), sums[0]);
            }
            let [a, b, c, d] = sums;
            _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
        }
    }

    /// # Safety
    /// Rows of `out`'s length are inside `w`; AVX-512 with BW and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn wide_sum<T: Element>(p: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
        let (fours, rest) = p.as_chunks::<4>();
        for (c, out) in out.chunks_mut(16).enumerate() {
            let mask = !0 >> (16 - out.len());
            // SAFETY: contract of the function; columns beyond the row are masked.
            unsafe {
                let at = |j: usize| T::sixteen(w.as_ptr().add(j * stride + 16 * c), mask);
                // Four sums: one alone would wait for each addition.
                let mut sums = [_mm512_setzero_ps(); 4];
                for (j, p) in fours.iter().enumerate() {
                    for i in 0..4 {
                        sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(p[i]), at(4 * j + i), sums[i]);
                    }
                }
                for (i, p) in rest.iter().enumerate() {
                    sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(*p), at(4 * fours.len() + i), sums[i]);
                }
                let [a, b, c, d] = sums;
                let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
                _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, sum);
            }
        }
    }

    /// # Safety
    /// Rows of `out`'s length are inside `w`; AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn narrow_sum<T: Element>(p: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
        let (fours, rest) = p.as_chunks::<4>();
        let (eights, tail) = out.as_chunks_mut::<8>();
        let whole = 8 * eights.len();
        for (c, out) in eights.iter_mut().enumerate() {
            // SAFETY: contract of the function.
            unsafe {
                let at = |j: usize| T::eight(w.as_ptr().add(j * stride + 8 * c));
                let mut sums = [_mm256_setzero_ps(); 4];
                for (j, p) in fours.iter().enumerate() {
                    for i in 0..4 {
                        sums[i] = _mm256_fmadd_ps(_mm256_set1_ps(p[i]), at(4 * j + i), sums[i]);
                    }
                }
                for (i, p) in rest.iter().enumerate() {
                    sums[i] = _mm256_fmadd_ps(_mm256_set1_ps(*p), at(4 * fours.len() + i), sums[i]);
                }
                let [a, b, c, d] = sums;
                let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
                _mm256_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
        for (i, out) in tail.iter_mut().enumerate() {
            *out = p.iter().enumerate().map(|(j, p)| p * w[j * stride + whole + i].value()).sum();
        }
    }

    /// # Safety
    /// AVX-512; every row of `w` begins `stride` after the last and is as long as `x`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(super) unsafe fn wide_rows<T: Element>(x: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
        for (j, o) in out.iter_mut().enumerate() {
            // SAFETY: contract of the function.
            *o = unsafe { wide(x, &w[j * stride..][..x.len()]) };
        }
    }

    /// # Safety
    /// AVX2 and FMA; every row of `w` begins `stride` after the last and is as long as `x`.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn narrow_rows<T: Element>(x: &[f32], w: &[T], stride: usize, out: &mut [f32]) {
        for (j, o) in out.iter_mut().enumerate() {
            // SAFETY: contract of the function.
            *o = unsafe { narrow(x, &w[j * stride..][..x.len()]) };
        }
    }

    /// # Safety
    /// `w` has the length of `x`; AVX2 and FMA.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn narrow<T: Element>(x: &[f32], w: &[T]) -> f32 {
        let whole = x.len() / 32 * 32;
        let mut lanes = [0.0f32; 8];
        // SAFETY: every read is inside `x` and `w`, 8 elements at a time.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); 4];
            for at in (0..whole).step_by(32) {
                for j in 0..4 {
                    let at = at + 8 * j;
                    let x = _mm256_loadu_ps(x.as_ptr().add(at));
                    sums[j] = _mm256_fmadd_ps(x, T::eight(w.as_ptr().add(at)), sums[j]);
                }
            }
            let [a, b, c, d] = sums;
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            _mm256_storeu_ps(lanes.as_mut_ptr(), sum);
        }
        let rest = x[whole..].iter().zip(&w[whole..]).map(|(x, w)| x * w.value());
        lanes.into_iter().chain(rest).sum()
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
                dots(isa, &x, &w, &mut found[1]);
                for found in found {
                    for (found, want) in found.iter().zip(&want) {
                        assert!((*found as f64 - want).abs() < 1e-4, "{isa:?} {k}: {found} {want}");
                    }
                }
            }
        }
    }
}
