//! Matrices as the micro-kernels read them: 32-bit words, each one f32 value or two neighbouring bf16 values.

use half::bf16;

use super::microkernel::Micro;
use super::{Isa, per_isa};
use crate::ahead::ask;
use crate::dtype::{DType, Precision};
use crate::quant::Weight;
use crate::tensor::Tensor;

/// A matrix to read: rows of f32 or bf16 values, or a weight in any format.
#[derive(Clone, Copy)]
pub enum Mat<'a> {
    /// Row-major f32 with this many columns.
    F32(&'a [f32], usize),
    /// Row-major bf16 with this many columns.
    Bf16(&'a [bf16], usize),
    /// A frozen weight `[N, K]`.
    Weight(&'a Weight),
}

impl<'a> From<&'a Tensor> for Mat<'a> {
    fn from(t: &'a Tensor) -> Self {
        match t.dtype() {
            DType::F32 => Mat::F32(t.host_f32(), t.cols()),
            _ => Mat::Bf16(t.host_bf16(), t.cols()),
        }
    }
}

impl<'a> From<&'a Weight> for Mat<'a> {
    fn from(w: &'a Weight) -> Self {
        Mat::Weight(w)
    }
}

impl<'a> Mat<'a> {
    /// The columns of head `h`, `dim` of them.
    pub(crate) fn head(t: &'a Tensor, h: usize, dim: usize) -> Self {
        match t.dtype() {
            DType::F32 => Mat::F32(&t.host_f32()[h * dim..], t.cols()),
            _ => Mat::Bf16(&t.host_bf16()[h * dim..], t.cols()),
        }
    }

    /// Reads from (`row`, `col`) on along the row.
    #[inline]
    pub(crate) fn read(&self, isa: Isa, row: usize, col: usize, out: &mut [f32]) {
        match self {
            Mat::F32(data, cols) => out.copy_from_slice(&data[row * cols + col..][..out.len()]),
            Mat::Bf16(data, cols) => widen_row(isa, &data[row * cols + col..][..out.len()], out),
            Mat::Weight(w) => w.decode(row, col, out),
        }
    }

    /// Values of a row.
    pub(crate) fn cols(&self) -> usize {
        match self {
            Mat::F32(_, cols) | Mat::Bf16(_, cols) => *cols,
            Mat::Weight(w) => w.cols(),
        }
    }

    /// The values themselves, if a weight has them as floats in memory and aligned.
    pub(crate) fn dense(self) -> Self {
        let Mat::Weight(w) = self else { return self };
        match w.dense_bytes(DType::F32).map(bytemuck::try_cast_slice) {
            Some(Ok(values)) => Mat::F32(values, w.cols()),
            _ => self.bf16().map_or(self, |values| Mat::Bf16(values, w.cols())),
        }
    }

    /// All values, if they are bf16 in memory and aligned.
    pub(crate) fn bf16(&self) -> Option<&'a [bf16]> {
        bytemuck::try_cast_slice(self.in_place(Words::Pairs)?.0).ok()
    }

    /// The bytes and the bytes of a row, if the values lie there as `kind` wants them.
    pub(crate) fn in_place(&self, kind: Words) -> Option<(&'a [u8], usize)> {
        match (self, kind) {
            (Mat::F32(data, cols), Words::F32) => Some((bytemuck::cast_slice(data), 4 * cols)),
            (Mat::Bf16(data, cols), Words::Pairs) => Some((bytemuck::cast_slice(data), 2 * cols)),
            (Mat::Weight(w), Words::F32) => Some((w.dense_bytes(DType::F32)?, 4 * w.cols())),
            (Mat::Weight(w), Words::Pairs) => Some((w.dense_bytes(DType::Bf16)?, 2 * w.cols())),
            _ => None,
        }
    }
}

#[inline(always)]
pub(crate) fn widen(v: bf16) -> f32 {
    f32::from_bits((v.to_bits() as u32) << 16)
}

per_isa! {
    /// bf16 values as f32.
    pub(crate) fn widen_row(x: &[bf16], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = widen(*x);
        }
    }
}

/// The upper 16 bits of `x` rounded to nearest even, in place; NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000;
    if x.is_nan() { 0x7FC0_0000 } else { rounded }
}

/// `x` rounded to bf16.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> f32 {
    f32::from_bits(rounded_bits(x))
}

/// `x` rounded to bf16, as one.
#[inline(always)]
pub(crate) fn narrow_one(x: f32) -> bf16 {
    bf16::from_bits((rounded_bits(x) >> 16) as u16)
}

/// What a word is: an f32 value, one rounded to bf16 (for kernels without bf16), or two bf16 values, the first in the
/// lower half.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Words {
    F32,
    Rounded,
    Pairs,
}

impl Words {
    /// What the kernel reads in this precision.
    pub(crate) fn of(micro: Micro, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Words::F32,
            Precision::Bf16 if micro.pairs => Words::Pairs,
            Precision::Bf16 => Words::Rounded,
        }
    }

    /// Words that `k` values of the reduction take.
    pub(crate) fn count(self, k: usize) -> usize {
        if self == Words::Pairs { k.div_ceil(2) } else { k }
    }

    /// Values of the reduction in a word.
    pub(crate) fn values(self) -> usize {
        if self == Words::Pairs { 2 } else { 1 }
    }
}

/// Where the columns of a row are put, 16 at a time: in lines `line` apart for the rows, and `apart` for the columns.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) line: usize,
    pub(crate) apart: usize,
}

per_isa! {
    /// 64 columns of `rows` rows, `stride` apart, to their places.
    pub(crate) fn spread(x: &[f32], stride: usize, rows: usize, to: Places, out: &mut [f32]) {
        for row in 0..rows {
            ask(x.as_ptr().wrapping_add((row + AHEAD) * stride).cast(), size_of::<[f32; 64]>());
            let out = &mut out[row * to.line..];
            for (i, x) in x[row * stride..][..64].as_chunks::<16>().0.iter().enumerate() {
                out[i * to.apart..][..16].copy_from_slice(x);
            }
        }
    }
}

per_isa! {
    /// Spreads bf16 values as [`spread`] does floats.
    pub(crate) fn spread_wide(x: &[bf16], stride: usize, rows: usize, to: Places, out: &mut [f32]) {
        for row in 0..rows {
            ask(x.as_ptr().wrapping_add((row + AHEAD) * stride).cast(), size_of::<[bf16; 64]>());
            let out = &mut out[row * to.line..];
            for (i, x) in x[row * stride..][..64].as_chunks::<16>().0.iter().enumerate() {
                let mut wide = [0.0; 16];
                for (o, x) in wide.iter_mut().zip(x) {
                    *o = widen(*x);
                }
                out[i * to.apart..][..16].copy_from_slice(&wide);
            }
        }
    }
}

/// Rows that are asked for before they are read: they are far apart, so the processor does not guess the next ones.
const AHEAD: usize = 8;

per_isa! {
    fn round_any(x: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = round_bf16(*x);
        }
    }
}

per_isa! {
    fn narrow_any(x: &[f32], out: &mut [bf16]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = narrow_one(*x);
        }
    }
}

per_isa! {
    fn zip_any(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = f32::from_bits((rounded_bits(*a) >> 16) | rounded_bits(*b));
        }
    }
}

per_isa! {
    fn zip_bf16(a: &[bf16], b: &[bf16], out: &mut [f32]) {
        for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
            *o = f32::from_bits(a.to_bits() as u32 | (b.to_bits() as u32) << 16);
        }
    }
}

/// f32 values rounded to bf16.
pub(crate) fn narrow(isa: Isa, x: &[f32], out: &mut [bf16]) {
    assert_eq!(x.len(), out.len());
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() {
        // SAFETY: the instruction set is that of the device; the lengths are equal.
        return unsafe { x86::narrow(x, out) };
    }
    narrow_any(isa, x, out);
}

/// A row of values as words; the last of an odd number is paired with a zero.
pub(crate) fn row(isa: Isa, kind: Words, x: &[f32], out: &mut [f32]) {
    match kind {
        Words::F32 => out.copy_from_slice(x),
        Words::Rounded => round_any(isa, x, out),
        Words::Pairs => {
            let out: &mut [bf16] = bytemuck::cast_slice_mut(out);
            if out.len() > x.len() {
                out[x.len()] = bf16::ZERO;
            }
            narrow(isa, x, &mut out[..x.len()]);
        }
    }
}

/// One value (in pairs: two) of the reduction for neighbouring columns: `out[j]` is `a[j]`, or the pair with `b[j]`.
pub(crate) fn zip(isa: Isa, kind: Words, a: &[f32], b: &[f32], out: &mut [f32]) {
    match kind {
        Words::F32 => out.copy_from_slice(a),
        Words::Rounded => round_any(isa, a, out),
        Words::Pairs => {
            assert!(a.len() == out.len() && b.len() == out.len());
            #[cfg(target_arch = "x86_64")]
            if isa.has_bf16() {
                // SAFETY: the instruction set is that of the device; the lengths are equal.
                return unsafe { x86::zip(a, b, out) };
            }
            zip_any(isa, a, b, out);
        }
    }
}

/// The same from rows that are bf16 already; a missing second row is zeros.
pub(crate) fn zip_narrow(isa: Isa, a: &[bf16], b: Option<&[bf16]>, out: &mut [f32]) {
    match b {
        Some(b) => zip_bf16(isa, a, b, out),
        None => {
            for (o, a) in out.iter_mut().zip(a) {
                *o = f32::from_bits(a.to_bits() as u32);
            }
        }
    }
}

/// [`zip_narrow`] of 64 columns of rows 0 and 1, 2 and 3, ..., `stride` apart, as long as the instruction set has a fast
/// way; gives the number of pairs done.
pub(crate) fn zip_rows(isa: Isa, values: &[bf16], stride: usize, pairs: usize, out: &mut [f32]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.has_bf16() && pairs > 0 {
        assert!(values.len() >= (2 * pairs - 1) * stride + 64 && out.len() >= pairs * 64, "rows to pair");
        // SAFETY: the instruction set is that of the device; the sizes were just checked.
        unsafe { x86::zip_rows(values.as_ptr(), stride, pairs, out.as_mut_ptr()) };
        return pairs;
    }
    let _ = (isa, values, stride, pairs, out);
    0
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::{narrow_one, rounded_bits};

    /// Rows that are asked for before they are read: they are far apart, so the processor does not guess the next ones.
    const AHEAD: usize = 32;

    /// # Safety
    /// 64 values of `2 * pairs` rows, `stride` apart, are readable, `64 * pairs` words writable; AVX-512-BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn zip_rows(values: *const bf16, stride: usize, pairs: usize, out: *mut f32) {
        // Word `i` of a register of pairs: value `i / 2` of the first row, or of the second.
        let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 32) as u16);
        // SAFETY: contract of the function; asking for a line reads nothing.
        unsafe {
            let low = _mm512_loadu_si512(order.as_ptr().cast());
            let high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
            for pair in 0..pairs {
                let a = values.add(2 * pair * stride);
                let b = a.add(stride);
                for ahead in [a, b] {
                    let ahead = ahead.wrapping_add(AHEAD * stride).cast::<i8>();
                    _mm_prefetch::<_MM_HINT_T0>(ahead);
                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(64));
                }
                let out = out.add(64 * pair);
                for half in [0, 32] {
                    let x = _mm512_loadu_si512(a.add(half).cast());
                    let y = _mm512_loadu_si512(b.add(half).cast());
                    let pairs = _mm512_permutex2var_epi16(x, low, y);
                    _mm512_storeu_si512(out.add(half).cast(), pairs);
                    let pairs = _mm512_permutex2var_epi16(x, high, y);
                    _mm512_storeu_si512(out.add(half + 16).cast(), pairs);
                }
            }
        }
    }

    /// # Safety
    /// The CPU has AVX-512-BF16; `out` is as long as `x`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn narrow(x: &[f32], out: &mut [bf16]) {
        let (groups, rest) = x.as_chunks::<32>();
        let (done, tail) = out.split_at_mut(groups.len() * 32);
        for (x, o) in groups.iter().zip(done.as_chunks_mut::<32>().0) {
            // SAFETY: 32 values are read and written.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)));
                let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(o.as_mut_ptr().cast(), both);
            }
        }
        for (o, x) in tail.iter_mut().zip(rest) {
            *o = narrow_one(*x);
        }
    }

    /// # Safety
    /// The CPU has AVX-512-BF16; all have one length.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn zip(a: &[f32], b: &[f32], out: &mut [f32]) {
        let n = out.len() / 16 * 16;
        for i in (0..n).step_by(16) {
            // SAFETY: 16 values from `i` on are inside all three.
            unsafe {
                let half = |x: &[f32]| {
                    let x = _mm512_cvtneps_pbh(_mm512_loadu_ps(x.as_ptr().add(i)));
                    _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(x))
                };
                let both = _mm512_or_si512(half(a), _mm512_slli_epi32::<16>(half(b)));
                _mm512_storeu_si512(out.as_mut_ptr().add(i).cast(), both);
            }
        }
        for i in n..out.len() {
            out[i] = f32::from_bits((rounded_bits(a[i]) >> 16) | rounded_bits(b[i]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn values() -> Vec<f32> {
        let s = Stream::new(7, "x", 0);
        let specials = [
            0.0,
            -0.0,
            1.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
        ];
        (0..1001).map(|i| s.normal(i)).chain(specials).collect()
    }

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        for x in values() {
            assert_eq!(round_bf16(x).to_bits(), bf16::from_f32(x).to_f32().to_bits(), "{x}");
        }
        assert!(round_bf16(f32::NAN).is_nan());
    }

    #[test]
    fn every_instruction_set_rounds_alike() {
        let x = values();
        let n = x.len();
        let y: Vec<f32> = x.iter().rev().copied().collect();
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let mut words = vec![f32::NAN; n.div_ceil(2)];
            row(isa, Words::Pairs, &x, &mut words);
            let narrow: &[bf16] = bytemuck::cast_slice(&words);
            for (found, x) in narrow.iter().zip(&x) {
                assert_eq!(found.to_bits(), bf16::from_f32(*x).to_bits(), "{isa:?} {x}");
            }
            assert_eq!(narrow[n], bf16::ZERO, "the odd one's neighbour");
            let mut pairs = vec![0.0; n];
            zip(isa, Words::Pairs, &x, &y, &mut pairs);
            let mut again = vec![0.0; n];
            let [a, b] = [&x, &y].map(|v| v.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
            zip_narrow(isa, &a, Some(&b), &mut again);
            assert_eq!(bytemuck::cast_slice::<f32, u32>(&pairs), bytemuck::cast_slice::<f32, u32>(&again));
            let mut rows = vec![0.0; 64 * 7];
            let done = zip_rows(isa, &a[5..], 66, 7, &mut rows);
            assert_eq!(done, if isa.has_bf16() { 7 } else { 0 });
            for (i, found) in rows.iter().enumerate().take(64 * done) {
                let first = 5 + i / 64 * 132 + i % 64;
                let want = a[first].to_bits() as u32 | (a[first + 66].to_bits() as u32) << 16;
                assert_eq!(found.to_bits(), want, "pair {i}");
            }
            assert_eq!(pairs[3].to_bits() as u16, a[3].to_bits());
            assert_eq!((pairs[3].to_bits() >> 16) as u16, b[3].to_bits());
        }
    }
}
