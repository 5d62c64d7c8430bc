//! Speed of the gated delta rule on each instruction set, beside the best that GEMM reaches:
//! `cargo run --release -p ferrotune-kernels --example gated_delta -- T Hk Hv dk dv [threads] [instruction set]`.
//!
//! Triangles count for their halves: GFLOP/s are of what the formulas need, in chunks of 64 tokens.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use ferrotune_kernels::cpu::gemm::{Job, Mat, Out, Term, gemm, left};
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::ops::gated_delta::{self, GatedDelta, Heads, Rule};
use ferrotune_kernels::ops::segments::Segment;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Precision, Tensor};

/// Tokens of a chunk.
const CHUNK: f64 = 64.0;

/// Seconds of the fastest of many calls: others may be using the machine.
fn best(mut call: impl FnMut()) -> f64 {
    let time = |_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    };
    (0..40).map(time).fold(f64::MAX, f64::min)
}

/// GFLOP/s of a product of matrices of 1024 in f32.
fn peak(cpu: &Cpu) -> f64 {
    let n = 1024;
    let (x, w, mut out) = (vec![0.5; n * n], vec![0.25; n * n], vec![0.0; n * n]);
    let a = left(cpu, Precision::F32, Mat::F32(&x, n), n, n, false);
    let terms = [Term { a: &a, b: Mat::F32(&w, n), transposed: false }];
    let seconds = best(|| gemm(cpu, Precision::F32, &[Job::new(&Out::from(&mut out[..]), n, &terms)]));
    2.0 * (n * n * n) as f64 / 1e9 / seconds
}

/// Inputs of the sizes that a model has: keys of length one, small decays.
fn inputs(dev: &Device, rows: usize, heads: Heads) -> [Tensor; 6] {
    let random = |cols: usize, name: &str, f: &dyn Fn(f32) -> f32| {
        let s = Stream::new(1, name, 0);
        let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| f(s.normal(i))).collect();
        dev.tensor(rows, cols, &values)
    };
    let length = (heads.key_dim as f32).sqrt();
    let (key, value) = (heads.k * heads.key_dim, heads.v * heads.value_dim);
    [
        random(key, "q", &|v| v / length),
        random(key, "k", &|v| v / length),
        random(value, "v", &|v| v),
        random(heads.v, "g", &|v| -0.1 * v * v),
        random(heads.v, "beta", &|v| 1.0 / (1.0 + (-v).exp())),
        random(value, "do", &|v| v),
    ]
}

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|v| v.parse().ok()).collect();
    let ([rows, k, v, key_dim, value_dim], threads) = match sizes[..] {
        [t, a, b, c, d] => ([t, a, b, c, d], 2),
        [t, a, b, c, d, threads] => ([t, a, b, c, d], threads),
        _ => return println!("usage: gated_delta T Hk Hv dk dv [threads] [instruction set]"),
    };
    let heads = Heads { k, v, key_dim, value_dim, scale: 1.0 / (key_dim as f32).sqrt() };
    let (dk, dv) = (key_dim as f64, value_dim as f64);
    let products = (rows * v) as f64 * 2.0 / 1e9;
    let forward_gflop = products * (3.0 * dk * dv + CHUNK * (dk + dv));
    let backward_gflop = products * (8.0 * dk * dv + CHUNK * (3.5 * dk + 2.5 * dv));
    let named = std::env::args().skip(6).find(|name| name.parse::<usize>().is_err());
    let wanted = |isa: &Isa| isa.available() && named.as_ref().is_none_or(|name| name == isa.name());
    for isa in Isa::ALL.into_iter().filter(wanted) {
        let Ok(cpu) = Cpu::new(threads, isa) else { continue };
        let peak = peak(&cpu);
        let dev = Device::Cpu(cpu);
        let [q, k, v, g, beta, d_o] = inputs(&dev, rows, heads);
        let segments = [Segment::own(0, rows)];
        let x = GatedDelta {
            q: &q,
            k: &k,
            v: &v,
            g: &g,
            beta: &beta,
            segments: &segments,
            rule: Rule::Delta,
            heads,
        };
        let forward = best(|| drop(gated_delta::forward(&dev, x)));
        let backward = best(|| drop(gated_delta::backward(&dev, x, &d_o)));
        println!("{:12} {threads} threads: GEMM {peak:.0} GFLOP/s", isa.name());
        for (name, seconds, gflop) in
            [("forward", forward, forward_gflop), ("backward", backward, backward_gflop)]
        {
            println!(
                "    {name:8} {:8.2} ms, {:6.0} thousand tokens/s, {:4.0} GFLOP/s, {:.0}% of GEMM",
                seconds * 1e3,
                rows as f64 / seconds / 1e3,
                gflop / seconds,
                100.0 * gflop / seconds / peak
            );
        }
        let one = [Segment::own(0, 1)];
        let [q, k, v, g, beta, _] = inputs(&dev, 1, heads);
        let x =
            GatedDelta { q: &q, k: &k, v: &v, g: &g, beta: &beta, segments: &one, rule: Rule::Delta, heads };
        // As many sequences as a model has layers, so that the states come from memory.
        let sequences = 48;
        let mut states = dev.zeros(sequences, heads.v * key_dim * value_dim);
        let seconds = best(|| {
            (0..sequences).for_each(|i| drop(gated_delta::forward_cached(&dev, x, &mut states, &[i])));
        });
        let bytes = 8.0 * states.len() as f64 / 1e9;
        println!(
            "    decoding {:8.3} ms a token, {:.1} GB/s of states",
            seconds / sequences as f64 * 1e3,
            bytes / seconds
        );
    }
}
