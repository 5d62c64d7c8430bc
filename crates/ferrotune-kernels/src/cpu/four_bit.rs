//! 4-bit weights straight into panels: into the words of the bf16 kernels without a detour by f32, and into those of f32
//! without one by rows of values.
//!
//! For bf16: a block has 16 different values. They are scaled and rounded once, in a table of bf16 in the lower half of 16 words and
//! another in the upper half; a word of the panel is then one permute of each, and never rounded again. The bits are those
//! of decoding and rounding value by value.

use super::Isa;
use super::microkernel::PANEL;
use super::words::Places;
use crate::quant::{FourBit, Weight};

/// A 4-bit weight, where the instruction set multiplies bf16.
fn four_bit(isa: Isa, weight: &Weight) -> Option<&FourBit> {
    weight.format().filter(|_| cfg!(target_arch = "x86_64") && isa.has_bf16())
}

/// Neighbouring values of a row, from the even position `col` on, as pairs; whether there is a fast way.
pub(super) fn pair_values(isa: Isa, weight: &Weight, row: usize, col: usize, out: &mut [f32]) -> bool {
    let Some(bits) = four_bit(isa, weight) else { return false };
    let start = row * weight.cols() + col;
    if !start.is_multiple_of(2) || col + 2 * out.len() > weight.cols() {
        return false;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction set was asked for.
    unsafe {
        x86::pair_values(bits, start, out);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bits;
    true
}

/// 64 columns from `col` on of rows `row` and `row + 1`, `row + 2` and `row + 3`, ...: `pairs` times 64 words. The number of
/// pairs done: all, or none where there is no fast way.
pub(super) fn pair_rows(
    isa: Isa,
    weight: &Weight,
    at: (usize, usize),
    pairs: usize,
    out: &mut [f32],
) -> usize {
    let Some(bits) = four_bit(isa, weight) else { return 0 };
    let ((row, col), cols) = (at, weight.cols());
    // Then the 64 columns of a row have one scale.
    let whole = col.is_multiple_of(PANEL) && cols.is_multiple_of(PANEL);
    if !whole || pairs == 0 {
        return 0;
    }
    assert!(
        row + 2 * pairs <= weight.rows() && col + PANEL <= cols && out.len() >= pairs * PANEL,
        "rows to pair"
    );
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction set was asked for.
    unsafe {
        x86::pair_rows(bits, row * cols + col, cols, &mut out[..pairs * PANEL]);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bits;
    pairs
}

/// 64 columns from `col` on of `rows` rows in f32, from `row` on, to their places; whether there is a fast way.
pub(super) fn value_rows(
    isa: Isa,
    weight: &Weight,
    (row, col): (usize, usize),
    rows: usize,
    to: Places,
    out: &mut [f32],
) -> bool {
    let Some(bits) = weight.format::<FourBit>() else { return false };
    let cols = weight.cols();
    let fast = cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) && isa != Isa::Portable;
    if !fast || !col.is_multiple_of(PANEL) || !cols.is_multiple_of(PANEL) || rows == 0 {
        return false;
    }
    assert!(row + rows <= weight.rows() && col + PANEL <= cols, "rows to decode");
    let start = row * cols + col;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction set was asked for.
    unsafe {
        x86::value_rows(bits, start, cols, rows, to, out);
    }
    #[cfg(target_arch = "aarch64")]
    arm::value_rows(bits, start, cols, rows, to, out);
    true
}

/// Rows that are asked for before they are read: the processor does not guess them, as large matrices have them on pages
/// of their own. They lie in one set of the first cache where a row is 4 KiB, so not more than that has ways.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const AHEAD: usize = 8;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::vst1q_f32;

    use super::super::words::Places;
    use super::{AHEAD, PANEL};
    use crate::ahead::ask;
    use crate::quant::FourBit;
    use crate::quant::nf4::{tables_neon, values_neon};

    /// `start`: the first value of the first row; rows are `stride` values apart.
    pub(super) fn value_rows(
        bits: &FourBit,
        start: usize,
        stride: usize,
        rows: usize,
        to: Places,
        out: &mut [f32],
    ) {
        let (packed, scales, block) = (bits.packed(), bits.scales_of(), bits.block());
        for row in 0..rows {
            let at = start + row * stride;
            let ahead = at + AHEAD * stride;
            ask(packed.as_ptr().wrapping_add(ahead / 2), 1);
            scales.ask(ahead / block);
            let tables = tables_neon(bits.code(), scales.one(at / block));
            let out = &mut out[row * to.line..];
            for (half, bytes) in packed[at / 2..][..PANEL / 2].as_chunks::<16>().0.iter().enumerate() {
                for (quarter, values) in values_neon(tables, bytes).iter().enumerate() {
                    let out = &mut out[(2 * half + quarter) * to.apart..][..16];
                    for (values, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                        // SAFETY: `out` is 4 floats; every 64-bit Arm has NEON.
                        unsafe { vst1q_f32(out.as_mut_ptr(), *values) };
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::words::Places;
    use super::{AHEAD, PANEL};
    use crate::ahead::ask;
    use crate::quant::FourBit;
    use crate::quant::nf4::{tables_avx2, values_avx2};

    /// The values of a block in bf16, in the lower half of each word.
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn table(code: __m512, scale: f32) -> __m512i {
        let rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(code, _mm512_set1_ps(scale)));
        // SAFETY: both are 16 numbers of 16 bits.
        _mm512_cvtepu16_epi32(unsafe { std::mem::transmute::<__m256bh, __m256i>(rounded) })
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn pair_values(bits: &FourBit, start: usize, out: &mut [f32]) {
        let (packed, block) = (bits.packed(), bits.block());
        // SAFETY: 16 floats are loaded unaligned.
        let code = unsafe { _mm512_loadu_ps(bits.code().as_ptr()) };
        let (mut at, mut out) = (start, out);
        while !out.is_empty() {
            let index = at / block;
            let take = (((index + 1) * block - at) / 2).min(out.len());
            let (run, rest) = out.split_at_mut(take);
            out = rest;
            let first = table(code, bits.scale(index));
            let second = _mm512_slli_epi32::<16>(first);
            for (bytes, words) in packed[at / 2..][..take].chunks(16).zip(run.chunks_mut(16)) {
                let mask = (1u32 << words.len()).wrapping_sub(1) as __mmask16;
                // SAFETY: both are as long as the mask has ones.
                unsafe {
                    let byte = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, bytes.as_ptr().cast()));
                    // The first value is the high nibble; a permute looks at four bits only.
                    let word = _mm512_or_si512(
                        _mm512_permutexvar_epi32(_mm512_srli_epi32::<4>(byte), first),
                        _mm512_permutexvar_epi32(byte, second),
                    );
                    _mm512_mask_storeu_epi32(words.as_mut_ptr().cast(), mask, word);
                }
            }
            at += 2 * take;
        }
    }

    /// The indices of 16 values in 8 bytes.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn indices(bytes: &[u8; 8]) -> __m512i {
        let wide = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*bytes)));
        _mm512_or_si512(_mm512_slli_epi64::<32>(wide), _mm512_srli_epi64::<4>(wide))
    }

    /// `start`: the first value of the first row; rows are `stride` values apart.
    #[target_feature(enable = "avx2")]
    pub(super) fn value_rows(
        bits: &FourBit,
        start: usize,
        stride: usize,
        rows: usize,
        to: Places,
        out: &mut [f32],
    ) {
        let (packed, scales, block) = (bits.packed(), bits.scales_of(), bits.block());
        for row in 0..rows {
            let at = start + row * stride;
            let ahead = at + AHEAD * stride;
            ask(packed.as_ptr().wrapping_add(ahead / 2), 1);
            scales.ask(ahead / block);
            let tables = tables_avx2(bits.code(), scales.one(at / block));
            let out = &mut out[row * to.line..];
            for (half, bytes) in packed[at / 2..][..PANEL / 2].as_chunks::<16>().0.iter().enumerate() {
                let values = values_avx2(&tables, bytes);
                for (quarter, values) in values.as_chunks::<2>().0.iter().enumerate() {
                    let out = &mut out[(2 * half + quarter) * to.apart..][..16];
                    for (values, out) in values.iter().zip(out.as_chunks_mut::<8>().0) {
                        // SAFETY: `out` is 8 floats.
                        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *values) };
                    }
                }
            }
        }
    }

    /// `start`: the first value of the first row; rows are `stride` values apart.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) fn pair_rows(bits: &FourBit, start: usize, stride: usize, out: &mut [f32]) {
        let (packed, scales, block) = (bits.packed(), bits.scales_of(), bits.block());
        // SAFETY: 16 floats are loaded unaligned.
        let code = unsafe { _mm512_loadu_ps(bits.code().as_ptr()) };
        for (pair, words) in out.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
            let rows = [start + 2 * pair * stride, start + (2 * pair + 1) * stride];
            for ahead in rows.map(|at| at + AHEAD * stride) {
                ask(packed.as_ptr().wrapping_add(ahead / 2), 1);
                scales.ask(ahead / block);
            }
            let tables = rows.map(|at| table(code, scales.one(at / block)));
            let (first, second) = (tables[0], _mm512_slli_epi32::<16>(tables[1]));
            let bytes = rows.map(|at| packed[at / 2..][..PANEL / 2].as_chunks::<8>().0);
            for ((a, b), out) in bytes[0].iter().zip(bytes[1]).zip(words.as_chunks_mut::<16>().0) {
                let word = _mm512_or_si512(
                    _mm512_permutexvar_epi32(indices(a), first),
                    _mm512_permutexvar_epi32(indices(b), second),
                );
                // SAFETY: `out` is 16 words.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), word) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn values_are_those_of_decoding() {
        let isa = Isa::detect();
        if isa == Isa::Portable {
            return;
        }
        let random = Stream::new(1, "four bits", 1);
        let (rows, cols) = (21, 192);
        let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| random.normal(i)).collect();
        for (kind, block, double) in
            [(FourBitKind::Nf4, 64, true), (FourBitKind::Fp4, 64, false), (FourBitKind::Nf4, 4096, true)]
        {
            let w = quantize(&Threads::one(), &Weight::from_f32(rows, cols, &values), kind, block, double)
                .unwrap();
            let mut decoded = vec![0.0; rows * cols];
            w.decode_flat(0, &mut decoded);
            let (first, count, to) = (2, 19, Places { line: 16, apart: 16 * 19 });
            for col in (0..cols).step_by(PANEL) {
                let mut found = vec![f32::NAN; count * PANEL];
                let fast = value_rows(isa, &w, (first, col), count, to, &mut found);
                assert!(fast);
                for (i, found) in found.iter().enumerate() {
                    let (part, row, place) = (i / (16 * count), i / 16 % count, i % 16);
                    let want = decoded[(first + row) * cols + col + 16 * part + place];
                    assert_eq!(found.to_bits(), want.to_bits(), "{kind:?} {block} {col} {i}");
                }
            }
            assert!(!value_rows(isa, &w, (0, 32), 1, to, &mut [0.0; PANEL]), "two blocks in a row");
        }
    }

    use super::super::words::{Words, row, zip};
    use super::*;
    use crate::Threads;
    use crate::quant::FourBitKind;
    use crate::quant::nf4::quantize;
    use crate::rng::Stream;

    #[test]
    fn words_are_those_of_decoded_and_rounded_values() {
        let isa = Isa::Avx512Bf16;
        if !isa.available() {
            let w =
                quantize(&Threads::one(), &Weight::from_f32(1, 64, &[1.0; 64]), FourBitKind::Nf4, 64, false)
                    .unwrap();
            assert!(!pair_values(Isa::Avx2, &w, 0, 0, &mut [0.0; 32]), "the general way is taken");
            return;
        }
        let random = Stream::new(1, "four bits", 0);
        for (rows, cols, block) in [(40, 192, 64), (9, 130, 64), (6, 320, 128), (70, 64, 4096)] {
            for kind in [FourBitKind::Nf4, FourBitKind::Fp4] {
                for double in [false, true] {
                    let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| random.normal(i)).collect();
                    let w = quantize(
                        &Threads::one(),
                        &Weight::from_f32(rows, cols, &values),
                        kind,
                        block,
                        double,
                    )
                    .unwrap();
                    let decoded = |row: usize, col: usize, len: usize| {
                        let mut out = vec![0.0; len];
                        w.decode(row, col, &mut out);
                        out
                    };
                    let places = [(0, 0, cols), (1, 2, 50), (rows - 1, cols - 6, 6), (3, 62, 66)];
                    for (r, col, len) in places.into_iter().filter(|(_, col, len)| col + len <= cols) {
                        let mut found = vec![0.0; len / 2];
                        assert!(pair_values(isa, &w, r, col, &mut found));
                        let mut wanted = vec![0.0; len / 2];
                        row(isa, Words::Pairs, &decoded(r, col, len), &mut wanted);
                        let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&found), bits(&wanted), "{rows} x {cols} at {r} {col}");
                    }
                    let mut found = vec![0.0; 2 * PANEL];
                    let done = pair_rows(isa, &w, (1, cols / PANEL * PANEL - PANEL), 2, &mut found);
                    let fast = cols % PANEL == 0;
                    assert_eq!(done, if fast { 2 } else { 0 }, "{rows} x {cols}");
                    for (pair, found) in found.chunks(PANEL).take(done).enumerate() {
                        let [a, b] = [0, 1].map(|i| decoded(1 + 2 * pair + i, cols - PANEL, PANEL));
                        let mut wanted = [0.0; PANEL];
                        zip(isa, Words::Pairs, &a, &b, &mut wanted);
                        assert!(found.iter().zip(&wanted).all(|(x, y)| x.to_bits() == y.to_bits()));
                    }
                }
            }
        }
    }
}
