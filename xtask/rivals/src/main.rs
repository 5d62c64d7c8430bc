//! The f32 products of a training step by ferrotune's kernels, the `gemm` crate and faer, in alternation:
//! `cargo run --release --manifest-path xtask/rivals/Cargo.toml -- [THREADS]`.
//!
//! Each has dense f32 operands in memory, as the others need them, and packs them as it likes within the time. The best of
//! many runs counts. What the others cannot do is not compared: weights in blocks of 4 bits, bf16, and the low-rank term
//! within the same product.

use std::error::Error;
use std::time::{Duration, Instant};

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use ferrotune_kernels::Precision;
use ferrotune_kernels::cpu::gemm::{Job, Mat, Out, Term, gemm as product, left};
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::rng::Stream;
use gemm::Parallelism;

/// Time for one product of all three.
const BUDGET: Duration = Duration::from_millis(4000);

/// How the operands of a product `[M, N]` over `K` are stored.
#[derive(Clone, Copy)]
enum Layout {
    /// `X Wt`: `[M, K]` and `[N, K]`.
    Forward,
    /// `dY W`: `[M, K]` and `[K, N]`.
    Input,
    /// `dYt X`: `[K, M]` and `[K, N]`.
    Weight,
}

struct Shape(&'static str, Layout, [usize; 3]);

/// SmolLM2-135M with 4 x 256 tokens and rank 16, then TinyLlama's shape with 512 tokens.
const SHAPES: [Shape; 14] = [
    Shape("135M q, X Wt", Layout::Forward, [1024, 576, 576]),
    Shape("135M k, X Wt", Layout::Forward, [1024, 192, 576]),
    Shape("135M gate, X Wt", Layout::Forward, [1024, 1536, 576]),
    Shape("135M down, X Wt", Layout::Forward, [1024, 576, 1536]),
    Shape("135M head, X Wt", Layout::Forward, [1024, 49152, 576]),
    Shape("135M gate, dY W", Layout::Input, [1024, 576, 1536]),
    Shape("135M down, dY W", Layout::Input, [1024, 1536, 576]),
    Shape("135M gate, dW", Layout::Weight, [1536, 576, 1024]),
    Shape("135M down, dW", Layout::Weight, [576, 1536, 1024]),
    Shape("135M H = X At", Layout::Forward, [1024, 16, 576]),
    Shape("135M gate, dA", Layout::Weight, [16, 576, 1024]),
    Shape("135M gate, dBt", Layout::Weight, [16, 1536, 1024]),
    Shape("1.1B gate, X Wt", Layout::Forward, [512, 5632, 2048]),
    Shape("1.1B gate, dY W", Layout::Input, [512, 2048, 5632]),
];

struct Operands<'a> {
    layout: Layout,
    sizes: [usize; 3],
    a: &'a [f32],
    b: &'a [f32],
}

impl Operands<'_> {
    fn ours(&self, cpu: &Cpu, out: &mut [f32]) {
        let [m, n, k] = self.sizes;
        let (turned, cols) = if matches!(self.layout, Layout::Weight) { (true, m) } else { (false, k) };
        let a = left(cpu, Precision::F32, Mat::F32(self.a, cols), m, k, turned);
        let transposed = !matches!(self.layout, Layout::Forward);
        let b = Mat::F32(self.b, if transposed { n } else { k });
        let terms = &[Term { a: &a, b, transposed }];
        product(cpu, Precision::F32, &[Job::new(&Out::from(out), n, terms)]);
    }

    fn gemm(&self, threads: usize, out: &mut [f32]) {
        let [m, n, k] = self.sizes;
        assert_eq!([self.a.len(), self.b.len(), out.len()], [m * k, n * k, m * n]);
        let (a_row, a_col) = if matches!(self.layout, Layout::Weight) { (1, m) } else { (k, 1) };
        let (b_row, b_col) = if matches!(self.layout, Layout::Forward) { (1, k) } else { (n, 1) };
        let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
        // SAFETY: the lengths were checked, and these strides stay inside.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                n as isize,
                false,
                self.a.as_ptr(),
                a_col as isize,
                a_row as isize,
                self.b.as_ptr(),
                b_col as isize,
                b_row as isize,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                parallelism,
            );
        }
    }

    fn faer(&self, threads: usize, out: &mut [f32]) {
        let [m, n, k] = self.sizes;
        let a = match self.layout {
            Layout::Weight => MatRef::from_row_major_slice(self.a, k, m).transpose(),
            Layout::Forward | Layout::Input => MatRef::from_row_major_slice(self.a, m, k),
        };
        let b = match self.layout {
            Layout::Forward => MatRef::from_row_major_slice(self.b, n, k).transpose(),
            Layout::Input | Layout::Weight => MatRef::from_row_major_slice(self.b, k, n),
        };
        let par = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
        matmul(MatMut::from_row_major_slice_mut(out, m, n), Accum::Replace, a, b, 1.0f32, par);
    }
}

fn values(n: usize, name: &str) -> Vec<f32> {
    let stream = Stream::new(1, name, 0);
    (0..n as u64).map(|i| stream.normal(i)).collect()
}

/// The largest difference as a part of the largest value.
fn difference(x: &[f32], y: &[f32]) -> f32 {
    let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    x.iter().zip(y).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn main() -> Result<(), Box<dyn Error>> {
    let threads = match std::env::args().nth(1) {
        Some(n) => n.parse()?,
        None => std::thread::available_parallelism()?.get(),
    };
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let cpu = Cpu::new(threads, Isa::detect())?;
    println!("{}, {threads} threads, GFLOP/s\n", cpu.isa().name());
    println!("| product | M | N | K | ferrotune | gemm | faer | ferrotune / better |");
    println!("|---|---|---|---|---|---|---|---|");
    for Shape(name, layout, sizes) in SHAPES {
        let [m, n, k] = sizes;
        let (a, b) = (values(m * k, "a"), values(n * k, "b"));
        let operands = Operands { layout, sizes, a: &a, b: &b };
        let mut outs = [(); 3].map(|()| vec![0f32; m * n]);
        let mut best = [f64::MAX; 3];
        let begin = Instant::now();
        while best[0] == f64::MAX || begin.elapsed() < BUDGET {
            for (i, (best, out)) in best.iter_mut().zip(&mut outs).enumerate() {
                let start = Instant::now();
                match i {
                    0 => operands.ours(&cpu, out),
                    1 => operands.gemm(threads, out),
                    _ => operands.faer(threads, out),
                }
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        for other in &outs[1..] {
            let difference = difference(&outs[0], other);
            if difference > 1e-4 {
                return Err(format!("{name}: products differ by {difference:e} of the largest value").into());
            }
        }
        let [ours, gemm, faer] = best.map(|seconds| 2.0 * (m * n * k) as f64 / seconds / 1e9);
        let ratio = ours / gemm.max(faer);
        println!("| {name} | {m} | {n} | {k} | {ours:.0} | {gemm:.0} | {faer:.0} | {ratio:.2} |");
    }
    Ok(())
}
