//! Matrix products: `C = sum over terms of A B`, where B may be a weight that is decoded on the way.
//!
//! A is rows of words, shared by the threads, and mostly the activations as they are. The output is cut into panels of 64
//! columns; a thread takes a panel (or, near the end, some rows of it), packs and, for a [`Weight`](crate::quant::Weight), decodes its
//! part of B into a private buffer that stays in its L2 cache, and runs the micro-kernel over the rows.
//!
//! The reduction of an element is never split between threads: the bits do not depend on their number.

use std::ops::Range;

pub use super::left::{Left, left};
use super::microkernel::{MR, PANEL, Tile, pick};
pub use super::out::Out;
use super::panel::{Packing, pack_panel, scratch_words};
pub use super::words::Mat;
use super::words::{Words, narrow};
use super::{Cpu, Isa};
use crate::dtype::Precision;
use crate::tensor::Buffer;

/// One product of a sum: A `[M, K]` times B.
pub struct Term<'a> {
    /// The left operand.
    pub a: &'a Left<'a>,
    /// The right operand, stored `[N, K]`, or `[K, N]` if `transposed`.
    pub b: Mat<'a>,
    /// Whether B is stored `[K, N]`, the reduction running over its rows.
    pub transposed: bool,
}

/// One output `[M, N]` of a [`gemm`] call.
pub struct Job<'a> {
    /// Where the output is. In bf16 it is rounded after all terms are summed, and cannot be accumulated to.
    pub out: &'a Out<'a>,
    /// Length of its rows, and which of their columns are this job's.
    pub columns: (usize, Range<usize>),
    /// What is summed.
    pub terms: &'a [Term<'a>],
    /// Add to the output instead of overwriting it.
    pub accumulate: bool,
    /// A row added to every row of the output.
    pub bias: Option<&'a [f32]>,
}

impl<'a> Job<'a> {
    /// The whole of an output of `n` columns, overwritten.
    pub fn new(out: &'a Out<'a>, n: usize, terms: &'a [Term<'a>]) -> Self {
        Job { out, columns: (n, 0..n), terms, accumulate: false, bias: None }
    }
}

/// Words of the reduction that are packed at a time: 64 columns of them stay in L2 beside the rows of A.
fn panel_words(isa: Isa) -> usize {
    match isa {
        Isa::Portable | Isa::Neon | Isa::Avx2 => 512,
        Isa::Avx512 | Isa::Avx512Bf16 => 1024,
    }
}

/// A part of a term's reduction in the panel buffer.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    a: &'a Left<'a>,
    /// First word of the rows of A.
    word: usize,
    words: usize,
    /// Where its panel begins.
    panel: usize,
}

/// Rows that take as long as packing a panel of weights does.
const PACK_ROWS: usize = 64;

/// Which rows of which panel a task computes. Whole panels go to the threads in turn. Only those that are left when each
/// thread has had the same number are cut, so that all threads end at about the same time: every cut packs its panel
/// again.
struct Split {
    /// Panels that are not cut.
    whole: usize,
    /// Parts of each of the others.
    cuts: usize,
    panels: usize,
    /// Blocks of [`MR`] rows.
    blocks: usize,
}

impl Split {
    fn new(threads: usize, panels: usize, blocks: usize) -> Self {
        let left = panels % threads;
        let time = |cuts: usize| {
            let rounds = (left * cuts).div_ceil(threads);
            rounds * (blocks.div_ceil(cuts) * MR + PACK_ROWS)
        };
        let most = if threads == 1 { 1 } else { blocks.div_ceil(4).clamp(1, 4 * threads) };
        let cuts = (1..=most).min_by_key(|cuts| time(*cuts)).unwrap_or(1);
        Split { whole: panels - left, cuts, panels, blocks }
    }

    fn tasks(&self) -> usize {
        self.whole + (self.panels - self.whole) * self.cuts
    }

    /// Panel and blocks of a task.
    fn part(&self, task: usize) -> (usize, Range<usize>) {
        if task < self.whole {
            return (task, 0..self.blocks);
        }
        let (panel, cut) = ((task - self.whole) / self.cuts, (task - self.whole) % self.cuts);
        (self.whole + panel, self.blocks * cut / self.cuts..self.blocks * (cut + 1) / self.cuts)
    }

    /// The most blocks that a task has.
    fn most_blocks(&self) -> usize {
        if self.whole > 0 { self.blocks } else { self.blocks.div_ceil(self.cuts) }
    }
}

/// Computes every job; all share the operands' number of rows `M` and precision.
pub fn gemm(cpu: &Cpu, precision: Precision, jobs: &[Job<'_>]) {
    let isa = cpu.isa();
    let micro = pick(isa, precision == Precision::Bf16);
    let packing = Packing { isa, micro, kind: Words::of(micro, precision) };
    let Some(m) = jobs.iter().flat_map(|j| j.terms.first()).map(|t| t.a.m).next() else { return };
    for job in jobs {
        assert_eq!(job.out.len(), m * job.columns.0, "gemm output");
        assert!(job.columns.1.end <= job.columns.0, "gemm columns");
        assert!(!job.accumulate || matches!(job.out, Out::F32(_)), "sums are not kept in bf16");
        for t in job.terms {
            assert!(t.a.m == m && t.a.precision == precision, "gemm operands");
        }
    }
    let count = |job: &Job<'_>| job.columns.1.len().div_ceil(PANEL);
    let mut panels: Vec<_> =
        jobs.iter().enumerate().flat_map(|(j, job)| (0..count(job)).map(move |p| (j, p))).collect();
    cpu.threads().sort(&mut panels, |(job, panel)| (panel, count(&jobs[job])));
    let split = Split::new(cpu.threads().count(), panels.len(), m.div_ceil(MR));
    let room = panel_words(isa);
    let rounded = jobs.iter().any(|j| matches!(j.out, Out::Bf16(_)));
    let sums = if rounded { split.most_blocks() * MR * PANEL } else { 0 };
    let state = || Buffers {
        panel: cpu.pool().take(PANEL * (room + SPARE_WORDS)),
        scratch: cpu.pool().take(scratch_words(packing.kind, room * packing.kind.values())),
        sums: cpu.pool().take(sums),
        chunks: Vec::new(),
    };
    cpu.threads().run_with(split.tasks(), state, |buffers, task| {
        let (panel, blocks) = split.part(task);
        let (job, panel) = panels[panel];
        let part = Part { job: &jobs[job], packing, room, m, blocks, n0: panel * PANEL };
        part.compute(buffers);
    });
}

/// What a thread works with.
struct Buffers<'a> {
    panel: Buffer,
    scratch: Buffer,
    /// Sums of the rows of a part that will be rounded.
    sums: Buffer,
    /// What is packed in the panel.
    chunks: Vec<Chunk<'a>>,
}

/// Room in the panel buffer for the short reduction of a low-rank term beside a full chunk.
const SPARE_WORDS: usize = 64;

/// Some rows of one panel of columns of an output.
struct Part<'a> {
    job: &'a Job<'a>,
    packing: Packing,
    room: usize,
    m: usize,
    /// Blocks of [`MR`] rows.
    blocks: Range<usize>,
    n0: usize,
}

impl<'a> Part<'a> {
    fn cols(&self) -> usize {
        (self.job.columns.1.len() - self.n0).min(PANEL)
    }

    /// Where the sums of a block that will be rounded are. A sum that is whole after one pass needs no place of its own.
    fn start_of(&self, block: usize, whole: bool) -> usize {
        if whole { 0 } else { (block - self.blocks.start) * MR * PANEL }
    }

    /// Packs as much of the reduction as there is room for, multiplies, and goes on with the rest.
    fn compute(&self, buffers: &mut Buffers<'a>) {
        let kind = self.packing.kind;
        let step = self.room * kind.values();
        let (mut packed, mut first) = (0, true);
        buffers.chunks.clear();
        for term in self.job.terms {
            for k0 in (0..term.a.k).step_by(step) {
                let k = (term.a.k - k0).min(step);
                if packed + kind.count(k) > self.room + SPARE_WORDS {
                    self.multiply(buffers, first, false);
                    buffers.chunks.clear();
                    (packed, first) = (0, false);
                }
                let words = pack_panel(
                    self.packing,
                    (term.b, term.transposed),
                    (self.n0, self.cols()),
                    (k0, k),
                    buffers.scratch.f32_mut(),
                    &mut buffers.panel.f32_mut()[packed * PANEL..],
                );
                let word = k0 / kind.values();
                buffers.chunks.push(Chunk { a: term.a, word, words, panel: packed * PANEL });
                packed += words;
            }
        }
        self.multiply(buffers, first, true);
    }

    /// Multiplies by the chunks that are packed. The tile of a block stays in L1 for all of them.
    fn multiply(&self, buffers: &mut Buffers<'a>, first: bool, last: bool) {
        let (job, micro, cols) = (self.job, self.packing.micro, self.cols());
        let (n, column) = (job.columns.0, job.columns.1.start + self.n0);
        for block in self.blocks.clone() {
            let row = block * MR;
            let live = (self.m - row).min(MR);
            // Where the block's sums are, how far its rows are apart.
            let (sums, ldc) = match job.out {
                // SAFETY: rows and columns of this part are written by this task alone, and the end that is checked is
                // that of its last row.
                Out::F32(out) => unsafe {
                    let start = row * n + column;
                    (out.base_within(start, start + (live - 1) * n + cols), n)
                },
                Out::Bf16(_) => {
                    let start = self.start_of(block, first && last);
                    (buffers.sums.f32_mut()[start..start + MR * PANEL].as_mut_ptr(), PANEL)
                }
            };
            let mut accumulate = !first || job.accumulate;
            if let (true, Some(bias)) = (first, job.bias) {
                for r in 0..live {
                    // SAFETY: `cols` elements of each live row are inside, see above.
                    let sums = unsafe { std::slice::from_raw_parts_mut(sums.add(r * ldc), cols) };
                    for (o, b) in sums.iter_mut().zip(&bias[self.n0..]) {
                        *o = if accumulate { *o + b } else { *b };
                    }
                }
                accumulate = true;
            }
            for sub in 0..cols.div_ceil(micro.nr) {
                let (col, width) = (sub * micro.nr, (cols - sub * micro.nr).min(micro.nr));
                let mut accumulate = accumulate;
                for c in &buffers.chunks {
                    let lda = c.a.stride;
                    let a = &c.a.words()[row * lda + c.word..][..(live - 1) * lda + c.words];
                    let b = &buffers.panel.f32()[c.panel + sub * c.words * micro.nr..][..c.words * micro.nr];
                    // SAFETY: both operands hold what the kernel reads; the tile is inside, see above.
                    unsafe {
                        (micro.kernel)(Tile {
                            words: c.words,
                            a: a.as_ptr(),
                            lda,
                            b: b.as_ptr(),
                            c: sums.add(col),
                            ldc,
                            rows: live,
                            cols: width,
                            accumulate,
                        });
                    }
                    accumulate = true;
                }
            }
            if let (true, Out::Bf16(out)) = (last, job.out) {
                let start = self.start_of(block, first);
                let sums = &buffers.sums.f32()[start..start + MR * PANEL];
                for (r, sums) in sums.chunks_exact(PANEL).take(live).enumerate() {
                    let at = (row + r) * n + column;
                    // SAFETY: as above.
                    narrow(self.packing.isa, &sums[..cols], unsafe { out.slice(at..at + cols) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::words::round_bf16;
    use super::*;
    use crate::quant::Weight;
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
        // B is values of bf16, so that it can be given as such too.
        b.iter_mut().for_each(|v| *v = round_bf16(*v));
        if precision == Precision::Bf16 {
            a.iter_mut().for_each(|v| *v = round_bf16(*v));
        }
        let (at, bt) = (transpose(&a, m, k), transpose(&b, n, k));
        let want = naive(&a, &b, m, n, k);
        let bias = random(n, "bias");
        for (ta, tb, accumulate) in
            [(false, false, false), (true, false, true), (false, true, true), (true, true, false)]
        {
            let mat_a = if ta { Mat::F32(&at, m) } else { Mat::F32(&a, k) };
            let (values, cols) = if tb { (&bt, n) } else { (&b, k) };
            let narrow: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
            let packed = left(cpu, precision, mat_a, m, k, ta);
            let product = |mat_b| {
                let mut out = vec![1.0; m * n];
                let terms = &[Term { a: &packed, b: mat_b, transposed: tb }];
                gemm(
                    cpu,
                    precision,
                    &[Job { accumulate, bias: Some(&bias), ..Job::new(&Out::from(&mut out[..]), n, terms) }],
                );
                out
            };
            let out = product(Mat::F32(values, cols));
            assert_eq!(out, product(Mat::Bf16(&narrow, cols)), "{:?} {precision:?} {m} {n} {k}", cpu.isa());
            let weight = Weight::from_f32(values.len() / cols, cols, values);
            assert_eq!(out, product(Mat::Weight(&weight)));
            for i in 0..m * n {
                let want = want[i] + bias[i % n] as f64 + accumulate as u8 as f64;
                let limit = 2e-6 * (k as f64).sqrt() * 10.0;
                let context = (cpu.isa(), precision, m, n, k, ta, tb, i);
                assert!((out[i] as f64 - want).abs() < limit, "{} != {want} at {context:?}", out[i]);
            }
        }
    }

    #[test]
    fn a_sum_of_more_terms_than_are_packed_at_a_time() {
        let (m, n, k, count) = (7, 70, 150, 11);
        let (a, b) = (random(m * k, "a"), random(n * k, "b"));
        for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
            let cpu = Cpu::new(1, isa).unwrap();
            let packed = left(&cpu, Precision::F32, Mat::F32(&a, k), m, k, false);
            let term = || Term { a: &packed, b: Mat::F32(&b, k), transposed: false };
            let mut out = vec![0.0; m * n];
            let terms: &Vec<_> = &(0..count).map(|_| term()).collect();
            assert!(count * k > panel_words(isa) + SPARE_WORDS);
            gemm(&cpu, Precision::F32, &[Job::new(&Out::from(&mut out[..]), n, terms)]);
            for (got, want) in out.iter().zip(naive(&a, &b, m, n, k)) {
                let want = want * count as f64;
                assert!((*got as f64 - want).abs() < 1e-3, "{got} {want} {isa:?}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (m, n, k) = (100, 200, 300);
        let (a, b) = (random(m * k, "a"), random(n * k, "b"));
        let run = |threads| {
            let cpu = Cpu::new(threads, Isa::detect()).unwrap();
            let packed = left(&cpu, Precision::F32, Mat::F32(&a, k), m, k, false);
            let mut out = vec![0.0; m * n];
            let terms = &[Term { a: &packed, b: Mat::F32(&b, k), transposed: false }];
            gemm(&cpu, Precision::F32, &[Job::new(&Out::from(&mut out[..]), n, terms)]);
            out
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(7));
    }
}
