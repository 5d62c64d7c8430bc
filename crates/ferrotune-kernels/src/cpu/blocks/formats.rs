//! One row of each format times `M` vectors.

use super::lanes::Lanes;
use crate::quant::gguf::k_quants::{Q4K, Q6K};
use crate::quant::gguf::legacy::{Q4_0, Q4_1, Q8_0};
use crate::quant::{FourBit, int8};

/// Blocks whose scales are read together.
const GROUP: usize = 16;

/// Room for the sums of a vector of `k` values: whole groups, the rest being zeros.
pub(super) fn sums_of(k: usize) -> usize {
    (k / 32).next_multiple_of(GROUP)
}

/// `M` vectors of `k` values one after the other, and the sums of each 32 of their values where a format needs them.
#[derive(Clone, Copy)]
pub(super) struct Vectors<const M: usize> {
    pub(super) values: *const f32,
    pub(super) sums: *const f32,
    pub(super) k: usize,
}

impl<const M: usize> Vectors<M> {
    /// Sixteen values of vector `i`.
    ///
    /// # Safety
    /// The instruction set of `L`; they are within the vector.
    #[inline(always)]
    unsafe fn at<L: Lanes>(&self, i: usize, at: usize) -> L {
        // SAFETY: contract of the function.
        unsafe { L::load(self.values.add(i * self.k + at)) }
    }

    /// The sums of vector `i` from the values `32 * part` on.
    ///
    /// # Safety
    /// The sums were made, and these are within them.
    #[inline(always)]
    unsafe fn sums(&self, i: usize, part: usize) -> *const f32 {
        // SAFETY: contract of the function.
        unsafe { self.sums.add(i * sums_of(self.k) + part) }
    }
}

/// What up to [`GROUP`] blocks begin with: a scale and, in some formats, a minimum.
///
/// # Safety
/// The instruction set of `L`; `B` is `N` bytes, four or more.
#[inline(always)]
pub(super) unsafe fn heads<L: Lanes, B, const N: usize>(blocks: &[B]) -> ([f32; GROUP], L) {
    const { assert!(size_of::<B>() == N && N >= 4) };
    let mut scales = [0.0; GROUP];
    // SAFETY: contract of the function; `scales` has 16 values.
    unsafe {
        let (first, second) = L::halves::<N>(blocks.as_ptr().cast(), blocks.len().min(GROUP));
        first.store(scales.as_mut_ptr());
        (scales, second)
    }
}

/// The products of sums of lanes.
///
/// # Safety
/// The instruction set of `L`.
#[inline(always)]
unsafe fn finish<L: Lanes, const M: usize>(sums: [L; M]) -> [f32; M] {
    // SAFETY: contract of the function.
    sums.map(|sum| unsafe { sum.sum() })
}

/// NF4 or FP4 from the flat position `start` on; the vectors have the order of [`Lanes::both`] in each 32.
///
/// # Safety
/// The instruction set of `L`; `start` and the vectors' length are multiples of 32, and inside `bits`.
#[inline(always)]
pub(super) unsafe fn four_bit<L: Lanes, const M: usize>(
    bits: &FourBit,
    start: usize,
    x: Vectors<M>,
) -> [f32; M] {
    let packed = &bits.packed()[start / 2..][..x.k / 2];
    let shift = bits.block().trailing_zeros();
    let (mut index, mut at) = (start >> shift, 0);
    // SAFETY: 16 bytes stand for 32 values of the vectors each time; both end together.
    unsafe {
        let table = L::table_of_both(bits.code());
        let mut sums = [L::splat(0.0); M];
        while at < x.k {
            let mut scales = [0.0; GROUP];
            let last = ((start + x.k - 1) >> shift) + 1;
            bits.scales_of().read(index, &mut scales[..(last - index).min(GROUP)]);
            for scale in scales.into_iter().take(last - index) {
                index += 1;
                let stop = ((index << shift) - start).min(x.k);
                let mut part = [L::splat(0.0); M];
                while at < stop {
                    let (first, second) = L::both(packed.as_ptr().add(at / 2), table);
                    for i in 0..M {
                        part[i] = second.fma(x.at(i, at + 16), first.fma(x.at(i, at), part[i]));
                    }
                    at += 32;
                }
                for i in 0..M {
                    sums[i] = part[i].fma(L::splat(scale), sums[i]);
                }
            }
        }
        finish(sums)
    }
}

/// 8-bit integers with one scale.
///
/// # Safety
/// The instruction set of `L`; `codes` has the vectors' length.
#[inline(always)]
pub(super) unsafe fn int8<L: Lanes, const M: usize>(codes: &[u8], absmax: f32, x: Vectors<M>) -> [f32; M] {
    let whole = x.k / 16 * 16;
    // SAFETY: 16 codes and values each time, or one, all inside.
    unsafe {
        let mut sums = [[L::splat(0.0); M]; 2];
        for at in (0..whole).step_by(16) {
            let q = L::signed(codes.as_ptr().add(at));
            let sums = &mut sums[at / 16 % 2];
            for i in 0..M {
                sums[i] = q.fma(x.at(i, at), sums[i]);
            }
        }
        let one = L::splat(1.0);
        let mut y = finish(std::array::from_fn::<L, M, _>(|i| sums[0][i].fma(one, sums[1][i])));
        for i in 0..M {
            for at in whole..x.k {
                y[i] += f32::from(codes[at] as i8) * *x.values.add(i * x.k + at);
            }
            y[i] *= int8::value(1, absmax);
        }
        y
    }
}

/// # Safety
/// The instruction set of `L`; the blocks are those of the vectors' length.
#[inline(always)]
pub(super) unsafe fn q4_0<L: Lanes, const M: usize>(blocks: &[Q4_0], x: Vectors<M>) -> [f32; M] {
    const LESS_8: [f32; 16] =
        [-8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
    // SAFETY: a block stands for 32 values of the vectors.
    unsafe {
        let table = L::table(&LESS_8);
        let mut sums = [L::splat(0.0); M];
        let mut at = 0;
        for blocks in blocks.chunks(GROUP) {
            let (scales, _) = heads::<L, Q4_0, 18>(blocks);
            for (block, scale) in blocks.iter().zip(scales) {
                let (low, high) = L::lookup(block.qs.as_ptr(), table);
                for i in 0..M {
                    let part = high.fma(x.at(i, at + 16), low.mul(x.at(i, at)));
                    sums[i] = part.fma(L::splat(scale), sums[i]);
                }
                at += 32;
            }
        }
        finish(sums)
    }
}

/// # Safety
/// The vectors have 32 values and one sum for every block; the instructions of `L` are available.
#[inline(always)]
pub(super) unsafe fn q4_1<L: Lanes, const M: usize>(blocks: &[Q4_1], x: Vectors<M>) -> [f32; M] {
    // SAFETY: a block stands for 32 values of the vectors, and for one sum; of these there are whole groups.
    unsafe {
        let mut sums = [L::splat(0.0); M];
        let mut mins = [L::splat(0.0); M];
        let mut at = 0;
        for blocks in blocks.chunks(GROUP) {
            let (scales, group) = heads::<L, Q4_1, 20>(blocks);
            for i in 0..M {
                mins[i] = group.fma(L::load(x.sums(i, at / 32)), mins[i]);
            }
            for (block, scale) in blocks.iter().zip(scales) {
                let (low, high) = L::nibbles(block.qs.as_ptr());
                for i in 0..M {
                    let part = high.fma(x.at(i, at + 16), low.mul(x.at(i, at)));
                    sums[i] = part.fma(L::splat(scale), sums[i]);
                }
                at += 32;
            }
        }
        let one = L::splat(1.0);
        finish(std::array::from_fn::<L, M, _>(|i| sums[i].fma(one, mins[i])))
    }
}

/// # Safety
/// The vectors have 32 values for every block; the instructions of `L` are available.
#[inline(always)]
pub(super) unsafe fn q8_0<L: Lanes, const M: usize>(blocks: &[Q8_0], x: Vectors<M>) -> [f32; M] {
    // SAFETY: a block stands for 32 values of the vectors.
    unsafe {
        let mut sums = [L::splat(0.0); M];
        let mut at = 0;
        for blocks in blocks.chunks(GROUP) {
            let (scales, _) = heads::<L, Q8_0, 34>(blocks);
            for (block, scale) in blocks.iter().zip(scales) {
                let (low, high) = (L::signed(block.qs.as_ptr()), L::signed(block.qs.as_ptr().add(16)));
                for i in 0..M {
                    let part = high.fma(x.at(i, at + 16), low.mul(x.at(i, at)));
                    sums[i] = part.fma(L::splat(scale), sums[i]);
                }
                at += 32;
            }
        }
        finish(sums)
    }
}

/// # Safety
/// The vectors have 256 values and 8 sums for every block; the instructions of `L` are available.
#[inline(always)]
pub(super) unsafe fn q4_k<L: Lanes, const M: usize>(blocks: &[Q4K], x: Vectors<M>) -> [f32; M] {
    // Eight lanes of minima: one chain of additions would be the longest in the loop.
    let mut mins = [[0.0; 8]; M];
    // SAFETY: a block stands for 256 values of the vectors, and for 8 sums.
    unsafe {
        let mut sums = [L::splat(0.0); M];
        for (b, block) in blocks.iter().enumerate() {
            let (mut scales, mut least) = ([0.0; 16], [0.0; 16]);
            let both = L::bytes(block.unpacked_scales().as_ptr());
            both.mul(L::splat(L::half(block.d))).store(scales.as_mut_ptr());
            both.mul(L::splat(L::half(block.dmin))).store(least.as_mut_ptr());
            for i in 0..M {
                let sums = &*x.sums(i, 8 * b).cast::<[f32; 8]>();
                for part in 0..8 {
                    mins[i][part] += least[8 + part] * sums[part];
                }
            }
            for pair in 0..4 {
                let at = 256 * b + 64 * pair;
                let qs = block.qs.as_ptr().add(32 * pair);
                let ((low, high), (low_2, high_2)) = (L::nibbles(qs), L::nibbles(qs.add(16)));
                let (scale, scale_2) = (L::splat(scales[2 * pair]), L::splat(scales[2 * pair + 1]));
                for i in 0..M {
                    let part = low_2.fma(x.at(i, at + 16), low.mul(x.at(i, at)));
                    sums[i] = part.fma(scale, sums[i]);
                    let part = high_2.fma(x.at(i, at + 48), high.mul(x.at(i, at + 32)));
                    sums[i] = part.fma(scale_2, sums[i]);
                }
            }
        }
        let y = finish(sums);
        std::array::from_fn(|i| y[i] - mins[i].iter().sum::<f32>())
    }
}

/// # Safety
/// The vectors have 256 values for every block; the instructions of `L` are available.
#[inline(always)]
pub(super) unsafe fn q6_k<L: Lanes, const M: usize>(blocks: &[Q6K], x: Vectors<M>) -> [f32; M] {
    // SAFETY: a block stands for 256 values of the vectors.
    unsafe {
        let mut sums = [L::splat(0.0); M];
        for (b, block) in blocks.iter().enumerate() {
            let mut scales = [0.0; 16];
            let d = L::splat(L::half(block.d));
            L::signed(block.scales.as_ptr()).mul(d).store(scales.as_mut_ptr());
            for group in 0..2 {
                let (ql, qh) = (block.ql.as_ptr().add(64 * group), block.qh.as_ptr().add(32 * group));
                for half in 0..2 {
                    let (low, next, high) = (ql.add(16 * half), ql.add(32 + 16 * half), qh.add(16 * half));
                    let quarters = [
                        L::six::<false, 0>(low, high),
                        L::six::<false, 2>(next, high),
                        L::six::<true, 4>(low, high),
                        L::six::<true, 6>(next, high),
                    ];
                    for (quarter, q) in quarters.into_iter().enumerate() {
                        let at = 128 * group + 32 * quarter + 16 * half;
                        let scale = L::splat(scales[at / 16]);
                        for i in 0..M {
                            sums[i] = q.mul(x.at(i, 256 * b + at)).fma(scale, sums[i]);
                        }
                    }
                }
            }
        }
        finish(sums)
    }
}
