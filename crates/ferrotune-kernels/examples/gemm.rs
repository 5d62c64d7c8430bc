//! Speed of one product: `cargo run --release --example gemm -- M N K`.

#![allow(clippy::print_stdout)]

use ferrotune_kernels::cpu::gemm::*;
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::{Precision, Weight};
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|v| v.parse().unwrap()).collect();
    let (m, n, k) = (a[0], a[1], a[2]);
    let x = vec![0.5f32; m * k];
    let w = Weight::from_f32(n, k, &vec![0.25; n * k]);
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        for threads in [1, 2] {
            let cpu = Cpu::new(threads, isa).unwrap();
            for p in [Precision::F32, Precision::Bf16] {
                let mut out = vec![0.0; m * n];
                let mut best = [f64::MAX; 3];
                for _ in 0..8 {
                    let t = std::time::Instant::now();
                    let pa = pack_a(&cpu, p, Mat::F32(&x, k), m, k, false, 1.0);
                    let t1 = t.elapsed().as_secs_f64();
                    let t = std::time::Instant::now();
                    gemm(
                        &cpu,
                        p,
                        vec![Job {
                            out: &mut out,
                            n,
                            terms: vec![Term { a: &pa, b: Mat::Weight(&w), transposed: false }],
                            accumulate: false,
                            bias: None,
                        }],
                    );
                    let t2 = t.elapsed().as_secs_f64();
                    let wt = Weight::from_f32(k, n, &vec![0.25; n * k]);
                    let t = std::time::Instant::now();
                    gemm(
                        &cpu,
                        p,
                        vec![Job {
                            out: &mut out,
                            n,
                            terms: vec![Term { a: &pa, b: Mat::Weight(&wt), transposed: true }],
                            accumulate: false,
                            bias: None,
                        }],
                    );
                    let t3 = t.elapsed().as_secs_f64();
                    for (b, t) in best.iter_mut().zip([t1, t2, t3]) {
                        *b = b.min(t);
                    }
                }
                let f = 2.0 * (m * n * k) as f64 / 1e9;
                println!(
                    "{:12} {threads} {p:?}: pack {:.2} ms, nt {:.0} GFLOP/s, nn {:.0} GFLOP/s",
                    isa.name(),
                    best[0] * 1e3,
                    f / best[1],
                    f / best[2]
                );
            }
        }
    }
}
