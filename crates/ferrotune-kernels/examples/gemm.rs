//! Speed of one product on each instruction set, with weights in f32, bf16 or nf4:
//! `cargo run --release -p ferrotune-kernels --example gemm -- M N K nf4`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use ferrotune_kernels::cpu::gemm::{Job, Mat, Out, Term, gemm, left};
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::quant::Bytes;
use ferrotune_kernels::quant::nf4::{FourBitKind, quantize};
use ferrotune_kernels::{DType, Precision, Threads, Weight};

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|v| v.parse().ok()).collect();
    let [m, n, k] = sizes[..] else {
        println!("usage: gemm M N K [bf16|nf4]");
        return;
    };
    let x = vec![0.5f32; m * k];
    let storage = std::env::args().nth(4).unwrap_or_default();
    let weight = |rows, cols| match storage.as_str() {
        "bf16" => Weight::dense(rows, cols, DType::Bf16, Bytes::owned([0x80, 0x3e].repeat(rows * cols))),
        "nf4" => quantize(
            &Threads::one(),
            &Weight::from_f32(rows, cols, &vec![0.25; rows * cols]),
            FourBitKind::Nf4,
            64,
            true,
        ),
        _ => Ok(Weight::from_f32(rows, cols, &vec![0.25; rows * cols])),
    };
    let (Ok(w), Ok(wt)) = (weight(n, k), weight(k, n)) else { return };
    let gflop = 2.0 * (m * n * k) as f64 / 1e9;
    for isa in Isa::ALL.into_iter().filter(|i| i.available()) {
        for (threads, precision) in
            [(1, Precision::F32), (1, Precision::Bf16), (2, Precision::F32), (2, Precision::Bf16)]
        {
            let Ok(cpu) = Cpu::new(threads, isa) else { continue };
            let mut out = vec![0.0; m * n];
            let mut best = [f64::MAX; 3];
            for _ in 0..8 {
                let start = Instant::now();
                let a = left(&cpu, precision, Mat::F32(&x, k), m, k, false);
                best[0] = best[0].min(start.elapsed().as_secs_f64());
                for (i, (b, transposed)) in [(&w, false), (&wt, true)].into_iter().enumerate() {
                    let start = Instant::now();
                    let terms = &[Term { a: &a, b: Mat::Weight(b), transposed }];
                    gemm(&cpu, precision, &[Job::new(&Out::from(&mut out[..]), n, terms)]);
                    best[i + 1] = best[i + 1].min(start.elapsed().as_secs_f64());
                }
            }
            let [pack, forward, backward] = best;
            println!(
                "{:12} {threads} threads {precision:?}: pack {:.2} ms, X Wt {:.0} GFLOP/s, dY W {:.0} GFLOP/s",
                isa.name(),
                pack * 1e3,
                gflop / forward,
                gflop / backward
            );
        }
    }
}
