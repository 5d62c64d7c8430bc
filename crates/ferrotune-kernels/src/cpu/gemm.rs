//! Matrix products: `C = sum over terms of A B`, where B may be a weight that is decoded on the way.
//!
//! A is rows of words, shared by the threads, and mostly the activations as they are. The output is cut into panels of 64
//! columns; a thread takes a panel (or some rows of it), packs and, for a [`Weight`](crate::quant::Weight), decodes its
//! part of B into a private buffer that stays in its L2 cache, and runs the micro-kernel over the rows.
//!
//! The reduction of an element is never split between threads: the bits do not depend on their number.

pub use super::left::{Left, left};
use super::microkernel::{MR, PANEL, pick};
use super::panel::{Packing, pack_panel, scratch_words};
pub use super::words::Mat;
use super::words::Words;
use super::{Cpu, Isa, SharedMut};
use crate::dtype::Precision;

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

/// Into how many parts the rows are cut, so that all threads end at about the same time: every part packs its panels
/// again, which costs as much as [`PACK_ROWS`] more rows.
fn row_cuts(threads: usize, panels: usize, blocks: usize) -> usize {
    const PACK_ROWS: usize = 12;
    let time = |cuts: usize| {
        let rounds = (panels * cuts).div_ceil(threads);
        rounds * (blocks.div_ceil(cuts) * MR + PACK_ROWS)
    };
    let most = if threads == 1 { 1 } else { blocks.div_ceil(4).clamp(1, 4 * threads) };
    (1..=most).min_by_key(|cuts| time(*cuts)).unwrap_or(1)
}

/// Computes every job; all share the packed operands' number of rows `M` and precision.
pub fn gemm(cpu: &Cpu, precision: Precision, jobs: Vec<Job<'_>>) {
    let isa = cpu.isa();
    let micro = pick(isa, precision == Precision::Bf16);
    let kind = Words::of(micro, precision);
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
    let blocks = m.div_ceil(MR);
    let cuts = row_cuts(cpu.threads(), panels.len().max(1), blocks);

    let packing = Packing { isa, micro, kind };
    let kc = chunk_words(isa) * kind.values();
    let state = || (cpu.pool().take(PANEL * chunk_words(isa)), cpu.pool().take(scratch_words(kind, kc)));
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
                    packing,
                    (term.b, term.transposed),
                    (n0, cols),
                    (k0, k),
                    scratch.f32_mut(),
                    panel.f32_mut(),
                );
                let lda = term.a.stride;
                for block in rows.clone() {
                    let live = (m - block * MR).min(MR);
                    let a =
                        &term.a.words()[block * MR * lda + k0 / kind.values()..][..(live - 1) * lda + words];
                    for sub in 0..cols.div_ceil(micro.nr) {
                        let b = &panel.f32()[sub * words * micro.nr..][..words * micro.nr];
                        let col = n0 + sub * micro.nr;
                        let width = (job.n - col).min(micro.nr);
                        let end = (block * MR + live - 1) * job.n + col + width;
                        // SAFETY: operands hold what the kernel reads; the rows and columns of this call are
                        // written by this task alone, and `end` shows that the last one is inside the output.
                        unsafe {
                            let start = block * MR * job.n + col;
                            let c = job.out.base_within(start, end);
                            (micro.kernel)(
                                words,
                                a.as_ptr(),
                                lda,
                                b.as_ptr(),
                                c,
                                job.n,
                                live,
                                width,
                                accumulate,
                            );
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
    use super::super::words::round_bf16;
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
            let packed = left(cpu, precision, mat_a, m, k, ta, 2.0);
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
            let packed = left(&cpu, Precision::F32, Mat::F32(&a, k), m, k, false, 1.0);
            let mut out = vec![0.0; m * n];
            let terms = vec![Term { a: &packed, b: Mat::F32(&b, k), transposed: false }];
            gemm(&cpu, Precision::F32, vec![Job { out: &mut out, n, terms, accumulate: false, bias: None }]);
            out
        };
        assert_eq!(run(1), run(2));
        assert_eq!(run(1), run(7));
    }
}
