//! Matrix products on packed panels: `C = sum over terms of A B`, where B may be a weight that is decoded on the way.
//!
//! All of A is packed once and shared by the threads. The output is cut into panels of 64 columns; a thread takes a
//! panel, packs (and, for a [`Weight`], decodes) its part of B into a private buffer that stays in its L2 cache, and
//! runs the micro-kernel over all rows. So each weight is decoded once per product, beside `2 M` operations on it.
//!
//! The reduction of an element is never split between threads: the bits do not depend on their number.

use half::bf16;

use super::microkernel::{MR, Micro, PANEL, pick};
use super::{Cpu, Isa, SharedMut, per_isa};
use crate::dtype::{DType, Precision};
use crate::quant::Weight;
use crate::tensor::{Buffer, Tensor};

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
            DType::F32 => Mat::F32(t.f32(), t.cols()),
            _ => Mat::Bf16(t.bf16(), t.cols()),
        }
    }
}

impl<'a> From<&'a Weight> for Mat<'a> {
    fn from(w: &'a Weight) -> Self {
        Mat::Weight(w)
    }
}

impl Mat<'_> {
    /// Reads from (`row`, `col`) on along the row.
    #[inline]
    pub fn read(&self, row: usize, col: usize, out: &mut [f32]) {
        match self {
            Mat::F32(data, cols) => out.copy_from_slice(&data[row * cols + col..][..out.len()]),
            Mat::Bf16(data, cols) => {
                let len = out.len();
                for (o, v) in out.iter_mut().zip(&data[row * cols + col..][..len]) {
                    *o = widen(*v);
                }
            }
            Mat::Weight(w) => w.decode(row, col, out),
        }
    }
}

#[inline(always)]
pub(crate) fn widen(v: bf16) -> f32 {
    f32::from_bits((v.to_bits() as u32) << 16)
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

/// Two bf16 values in a word, the first in the lower half.
#[inline(always)]
fn pair(a: f32, b: f32) -> f32 {
    f32::from_bits((rounded_bits(a) >> 16) | rounded_bits(b))
}

/// What packing does to values: keep, round, or round and pair.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Words {
    F32,
    Rounded,
    Pairs,
}

impl Words {
    /// Words that `k` values of the reduction take.
    pub(crate) fn count(self, k: usize) -> usize {
        if self == Words::Pairs { k.div_ceil(2) } else { k }
    }
}

pub(crate) fn words_of(micro: Micro, precision: Precision) -> Words {
    match precision {
        Precision::F32 => Words::F32,
        Precision::Bf16 if micro.pairs => Words::Pairs,
        Precision::Bf16 => Words::Rounded,
    }
}

/// An `[M, K]` operand in kernel order: blocks of `MR` rows, each `[K words][MR]`.
pub struct PackedA {
    buffer: Buffer,
    m: usize,
    k: usize,
    words: usize,
    precision: Precision,
}

impl PackedA {
    /// Rows `M`.
    pub fn rows(&self) -> usize {
        self.m
    }
}

per_isa! {
    /// `[MR][k]` rows to `[words][MR]`.
    fn interleave_rows(rows: &[f32], k: usize, words: Words, out: &mut [f32]) {
        match words {
            Words::F32 => {
                for (i, o) in out.chunks_exact_mut(MR).enumerate() {
                    for r in 0..MR {
                        o[r] = rows[r * k + i];
                    }
                }
            }
            Words::Rounded => {
                for (i, o) in out.chunks_exact_mut(MR).enumerate() {
                    for r in 0..MR {
                        o[r] = round_bf16(rows[r * k + i]);
                    }
                }
            }
            Words::Pairs => {
                for (i, o) in out.chunks_exact_mut(MR).enumerate() {
                    for r in 0..MR {
                        let next = if 2 * i + 1 < k { rows[r * k + 2 * i + 1] } else { 0.0 };
                        o[r] = pair(rows[r * k + 2 * i], next);
                    }
                }
            }
        }
    }
}

per_isa! {
    /// A small left operand from f32 rows `stride` apart (stored `[K, M]` if `transposed`), packed into `out`.
    pub(crate) fn pack_tile(src: &[f32], stride: usize, m: usize, k: usize, transposed: bool, kind: Words, out: &mut [f32]) {
        let words = kind.count(k);
        for block in 0..m.div_ceil(MR) {
            let r0 = block * MR;
            let live = (m - r0).min(MR);
            let out = &mut out[block * MR * words..(block + 1) * MR * words];
            let at = |r: usize, i: usize| if transposed { src[i * stride + r0 + r] } else { src[(r0 + r) * stride + i] };
            for (w, o) in out.chunks_exact_mut(MR).enumerate() {
                for r in 0..live {
                    o[r] = match kind {
                        Words::F32 => at(r, w),
                        Words::Rounded => round_bf16(at(r, w)),
                        Words::Pairs => pair(at(r, 2 * w), if 2 * w + 1 < k { at(r, 2 * w + 1) } else { 0.0 }),
                    };
                }
                o[live..].fill(0.0);
            }
        }
    }
}

/// Packs the left operand. `transposed`: `mat` is stored `[K, M]`. Every value is multiplied by `scale` first.
pub fn pack_a(
    cpu: &Cpu,
    precision: Precision,
    mat: Mat<'_>,
    m: usize,
    k: usize,
    transposed: bool,
    scale: f32,
) -> PackedA {
    let isa = cpu.isa();
    let micro = pick(isa, precision == Precision::Bf16);
    let kind = words_of(micro, precision);
    let words = kind.count(k);
    let blocks = m.div_ceil(MR);
    let mut buffer = cpu.pool().take(blocks * MR * words);
    let out = SharedMut::new(buffer.f32_mut());
    cpu.run_ranges(blocks, 4, |range| {
        let mut rows = cpu.pool().take(MR * k);
        let rows = &mut rows.f32_mut()[..MR * k];
        for block in range {
            let live = (m - block * MR).min(MR);
            rows[live * k..].fill(0.0);
            if transposed {
                let mut column = [0.0; MR];
                for i in 0..k {
                    mat.read(i, block * MR, &mut column[..live]);
                    for r in 0..live {
                        rows[r * k + i] = column[r];
                    }
                }
            } else {
                for r in 0..live {
                    mat.read(block * MR + r, 0, &mut rows[r * k..][..k]);
                }
            }
            if scale != 1.0 {
                rows[..live * k].iter_mut().for_each(|v| *v *= scale);
            }
            // SAFETY: a block is packed by one task only.
            let out = unsafe { out.slice(block * MR * words..(block + 1) * MR * words) };
            interleave_rows(isa, rows, k, kind, out);
        }
    });
    PackedA { buffer, m, k, words, precision }
}

/// One product of a sum: packed A `[M, K]` times B.
pub struct Term<'a> {
    /// The left operand.
    pub a: &'a PackedA,
    /// The right operand, stored `[N, K]`, or `[K, N]` if `transposed`.
    pub b: Mat<'a>,
    /// Whether B is stored `[K, N]`, the reduction running over its rows.
    pub transposed: bool,
}

/// One output `[M, N]` of a [`gemm`] call.
pub struct Job<'a> {
    /// Row-major output.
    pub out: &'a mut [f32],
    /// Columns `N`.
    pub n: usize,
    /// What is summed.
    pub terms: Vec<Term<'a>>,
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
    /// A row added to every row of the output.
    pub bias: Option<&'a [f32]>,
}

/// Words of the reduction in a panel chunk: the panel (64 columns) stays in L2 beside a block of A.
fn chunk_words(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Avx2 => 512,
        Isa::Avx512 | Isa::Avx512Bf16 => 1024,
    }
}

per_isa! {
    /// Sixteen decoded rows (`stride` apart) become 16 neighbouring columns of a sub-panel of width `nr`.
    fn interleave_columns(rows: &[f32], stride: usize, k: usize, words: Words, nr: usize, out: &mut [f32]) {
        let n = if words == Words::Pairs { k.div_ceil(2) } else { k };
        for (i, o) in out.chunks_mut(nr).take(n).enumerate() {
            let o: &mut [f32; 16] = (&mut o[..16]).try_into().expect("16 columns");
            match words {
                Words::F32 => for j in 0..16 { o[j] = rows[j * stride + i]; },
                Words::Rounded => for j in 0..16 { o[j] = round_bf16(rows[j * stride + i]); },
                // The rows are zero-padded to an even length.
                Words::Pairs => for j in 0..16 { o[j] = pair(rows[j * stride + 2 * i], rows[j * stride + 2 * i + 1]); },
            }
        }
    }
}

per_isa! {
    /// One or two decoded rows become the next word of all 64 columns; `step` is the distance of sub-panels.
    fn interleave_reduction(first: &[f32; PANEL], second: &[f32; PANEL], words: Words, nr: usize, step: usize, out: &mut [f32]) {
        for s in 0..PANEL / nr {
            let o = &mut out[s * step..][..nr];
            let (a, b) = (&first[s * nr..][..nr], &second[s * nr..][..nr]);
            match words {
                Words::F32 => o.copy_from_slice(a),
                Words::Rounded => for j in 0..nr { o[j] = round_bf16(a[j]); },
                Words::Pairs => for j in 0..nr { o[j] = pair(a[j], b[j]); },
            }
        }
    }
}

/// Packs columns `n0..n0+cols` and reduction `k0..k0+k` of B: sub-panels of `nr` columns, each `[words][nr]`.
pub(crate) fn pack_panel(
    isa: Isa,
    micro: Micro,
    kind: Words,
    (b, transposed): (Mat<'_>, bool),
    (n0, cols): (usize, usize),
    (k0, k): (usize, usize),
    scratch: &mut [f32],
    out: &mut [f32],
) -> usize {
    let words = kind.count(k);
    let nr = micro.nr;
    if transposed {
        let (mut first, mut second) = ([0.0; PANEL], [0.0; PANEL]);
        for w in 0..words {
            if kind == Words::Pairs {
                b.read(k0 + 2 * w, n0, &mut first[..cols]);
                if 2 * w + 1 < k {
                    b.read(k0 + 2 * w + 1, n0, &mut second[..cols]);
                } else {
                    second.fill(0.0);
                }
            } else {
                b.read(k0 + w, n0, &mut first[..cols]);
            }
            interleave_reduction(isa, &first, &second, kind, nr, words * nr, &mut out[w * nr..]);
        }
    } else {
        // A stride off the power of two keeps the 16 rows out of each other's cache sets.
        let stride = k.next_multiple_of(2) + 16;
        for group in 0..PANEL / 16 {
            let live = cols.saturating_sub(16 * group).min(16);
            for j in 0..16 {
                let row = &mut scratch[j * stride..(j + 1) * stride];
                if j < live {
                    b.read(n0 + 16 * group + j, k0, &mut row[..k]);
                    row[k] = 0.0;
                } else {
                    row.fill(0.0);
                }
            }
            let sub = 16 * group / nr;
            let at = sub * words * nr + 16 * group % nr;
            interleave_columns(isa, scratch, stride, k, kind, nr, &mut out[at..]);
        }
    }
    words
}

/// Computes every job; all share the packed operands' number of rows `M` and precision.
pub fn gemm(cpu: &Cpu, precision: Precision, jobs: Vec<Job<'_>>) {
    let isa = cpu.isa();
    let micro = pick(isa, precision == Precision::Bf16);
    let kind = words_of(micro, precision);
    let Some(m) = jobs.iter().flat_map(|j| j.terms.first()).map(|t| t.a.m).next() else { return };
    for job in &jobs {
        assert_eq!(job.out.len(), m * job.n, "gemm output");
        for t in &job.terms {
            assert!(t.a.m == m && t.a.precision == precision, "gemm operands");
        }
    }

    struct Shared<'a> {
        out: SharedMut<'a, f32>,
        n: usize,
        terms: Vec<Term<'a>>,
        accumulate: bool,
        bias: Option<&'a [f32]>,
    }
    let jobs: Vec<Shared<'_>> = jobs
        .into_iter()
        .map(|j| Shared {
            out: SharedMut::new(j.out),
            n: j.n,
            terms: j.terms,
            accumulate: j.accumulate,
            bias: j.bias,
        })
        .collect();
    let panels: Vec<(usize, usize)> = jobs
        .iter()
        .enumerate()
        .flat_map(|(j, job)| (0..job.n.div_ceil(PANEL)).map(move |p| (j, p)))
        .collect();
    // Few panels: cut the rows too, so that all threads work; the panel is then packed once per cut.
    let blocks = m.div_ceil(MR);
    let cuts = (4 * cpu.threads()).div_ceil(panels.len().max(1)).clamp(1, blocks.div_ceil(8));
    let cuts = if cpu.threads() == 1 { 1 } else { cuts };

    let kc = chunk_words(isa) * if micro.pairs { 2 } else { 1 };
    let state = || (cpu.pool().take(PANEL * chunk_words(isa)), cpu.pool().take(16 * (kc + 18)));
    cpu.run_with(panels.len() * cuts, state, |(panel, scratch), task| {
        let (job, p) = panels[task / cuts];
        let job = &jobs[job];
        let cut = task % cuts;
        let rows = blocks * cut / cuts..blocks * (cut + 1) / cuts;
        let (n0, cols) = (p * PANEL, (job.n - p * PANEL).min(PANEL));
        let mut accumulate = job.accumulate;
        if let Some(bias) = job.bias {
            for r in rows.start * MR..(rows.end * MR).min(m) {
                // SAFETY: this task alone writes these rows of this panel.
                let out = unsafe { job.out.slice(r * job.n + n0..r * job.n + n0 + cols) };
                for (o, b) in out.iter_mut().zip(&bias[n0..]) {
                    *o = if accumulate { *o + b } else { *b };
                }
            }
            accumulate = true;
        }
        for term in &job.terms {
            let mut k0 = 0;
            while k0 < term.a.k {
                let k = (term.a.k - k0).min(kc);
                let words = pack_panel(
                    isa,
                    micro,
                    kind,
                    (term.b, term.transposed),
                    (n0, cols),
                    (k0, k),
                    scratch.f32_mut(),
                    panel.f32_mut(),
                );
                let word0 = if kind == Words::Pairs { k0 / 2 } else { k0 };
                for block in rows.clone() {
                    let live = (m - block * MR).min(MR);
                    let a = &term.a.buffer.f32()[(block * term.a.words + word0) * MR..][..words * MR];
                    for sub in 0..cols.div_ceil(micro.nr) {
                        let b = &panel.f32()[sub * words * micro.nr..][..words * micro.nr];
                        let col = n0 + sub * micro.nr;
                        let width = (job.n - col).min(micro.nr);
                        let end = (block * MR + live - 1) * job.n + col + width;
                        // SAFETY: operands are packed as the kernel reads them; the rows and columns of this call are
                        // written by this task alone, and `end` shows that the last one is inside the output.
                        unsafe {
                            let start = block * MR * job.n + col;
                            let c = job.out.base_within(start, end);
                            (micro.kernel)(words, a.as_ptr(), b.as_ptr(), c, job.n, live, width, accumulate);
                        }
                    }
                }
                accumulate = true;
                k0 += k;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn random(n: usize, name: &str) -> Vec<f32> {
        let s = Stream::new(7, name, 0);
        (0..n as u64).map(|i| s.normal(i)).collect()
    }

    /// `[M, K] [N, K]t` in f64.
    fn naive(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
        let mut c = vec![0.0; m * n];
        for i in 0..m {
            for j in 0..n {
                c[i * n + j] = (0..k).map(|x| a[i * k + x] as f64 * b[j * k + x] as f64).sum();
            }
        }
        c
    }

    fn transpose(a: &[f32], rows: usize, cols: usize) -> Vec<f32> {
        (0..cols * rows).map(|i| a[(i % rows) * cols + i / rows]).collect()
    }

    #[test]
    fn every_layout_and_instruction_set_agrees_with_the_naive_sum() {
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            for (m, n, k) in
                [(1, 1, 1), (6, 64, 32), (7, 65, 33), (50, 130, 1111), (13, 16, 2100), (3, 200, 5)]
            {
                for precision in [Precision::F32, Precision::Bf16] {
                    for threads in [1, 3] {
                        check(&Cpu::new(threads, isa).unwrap(), precision, m, n, k);
                    }
                }
            }
        }
    }

    fn check(cpu: &Cpu, precision: Precision, m: usize, n: usize, k: usize) {
        let (mut a, mut b) = (random(m * k, "a"), random(n * k, "b"));
        if precision == Precision::Bf16 {
            a.iter_mut().chain(&mut b).for_each(|v| *v = round_bf16(*v));
        }
        let (at, bt) = (transpose(&a, m, k), transpose(&b, n, k));
        let want = naive(&a, &b, m, n, k);
        let bias = random(n, "bias");
        for (ta, tb, accumulate) in
            [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mat_a = if ta { Mat::F32(&at, m) } else { Mat::F32(&a, k) };
            let mat_b = if tb { Mat::F32(&bt, n) } else { Mat::F32(&b, k) };
            let packed = pack_a(cpu, precision, mat_a, m, k, ta, 2.0);
            let mut out = vec![1.0; m * n];
            let terms = vec![Term { a: &packed, b: mat_b, transposed: tb }];
            gemm(cpu, precision, vec![Job { out: &mut out, n, terms, accumulate, bias: Some(&bias) }]);
            for i in 0..m * n {
                let want = 2.0 * want[i] + bias[i % n] as f64 + accumulate as u8 as f64;
                let limit = 2e-6 * (k as f64).sqrt() * 10.0;
                let context = (cpu.isa(), precision, m, n, k, ta, tb, i);
                assert!((out[i] as f64 - want).abs() < limit, "{} != {want} at {context:?}", out[i]);
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (m, n, k) = (100, 200, 300);
        let (a, b) = (random(m * k, "a"), random(n * k, "b"));
        let run = |threads| {
            let cpu = Cpu::new(threads, Isa::detect()).unwrap();
            let packed = pack_a(&cpu, Precision::F32, Mat::F32(&a, k), m, k, false, 1.0);
            let mut out = vec![0.0; m * n];
            let terms = vec![Term { a: &packed, b: Mat::F32(&b, k), transposed: false }];
            gemm(&cpu, Precision::F32, vec![Job { out: &mut out, n, terms, accumulate: false, bias: None }]);
            out
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(7));
    }

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
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
        for x in random(1000, "x").into_iter().chain(specials) {
            assert_eq!(round_bf16(x).to_bits(), bf16::from_f32(x).to_f32().to_bits(), "{x}");
        }
        assert!(round_bf16(f32::NAN).is_nan());
    }
}
