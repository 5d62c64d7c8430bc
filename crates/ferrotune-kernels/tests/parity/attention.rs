//! Attention over segments, grouped heads, windows and caches.

use ferrotune_kernels::cpu::Cpu;
use ferrotune_kernels::ops::attention::{self, Attention, Heads, Outputs, Segment};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Device, Precision, Tensor};

use super::{assert_close, cpus, finite_difference, inner, random};

#[test]
fn sinks_take_their_share() {
    let dev = Device::reference();
    let heads = Heads { q: 4, kv: 2, dim: 16, scale: 0.25, window: Some(9), cap: None };
    let segments = [Segment::own(0, 30), Segment::own(30, 7)];
    let [q, d_o] = ["q", "do"].map(|name| random(&dev, 37, 64, name));
    let [k, v] = ["k", "v"].map(|name| random(&dev, 37, 32, name));
    let sinks = dev.tensor(1, 4, &[-3.0, 0.0, 2.0, 40.0]);
    let forward = |dev: &Device, q: &Tensor, k: &Tensor, v: &Tensor, sinks: &Tensor| {
        let attention = Attention { q, k, v, segments: &segments, heads };
        let (mut o, mut lse) = attention::forward(dev.ctx(Precision::F32), attention).unwrap();
        attention::add_sinks(dev, &mut o, &mut lse, sinks).unwrap();
        (o, lse)
    };
    let run = |dev: &Device| {
        let (o, lse) = forward(dev, &q, &k, &v, &sinks);
        let attention = Attention { q: &q, k: &k, v: &v, segments: &segments, heads };
        let outputs = Outputs { o: &o, lse: &lse, d_o: &d_o };
        let (dq, dk, dv) = attention::backward(dev.ctx(Precision::F32), attention, outputs).unwrap();
        let mut d_sinks = dev.zeros(1, 4);
        attention::sinks_backward(&sinks, &o, &lse, &d_o, &mut d_sinks).unwrap();
        [o, lse, dq, dk, dv, d_sinks].map(|t| t.to_vec())
    };
    let expected = run(&dev);
    let loss = |q: &Tensor, k: &Tensor, v: &Tensor, sinks: &Tensor| {
        inner(&forward(&Device::reference(), q, k, v, sinks).0, &d_o)
    };
    finite_difference("sinks dq", &q, &expected[2], |q| loss(q, &k, &v, &sinks));
    finite_difference("sinks dk", &k, &expected[3], |k| loss(&q, k, &v, &sinks));
    finite_difference("sinks dv", &v, &expected[4], |v| loss(&q, &k, v, &sinks));
    finite_difference("d_sinks", &sinks, &expected[5], |sinks| loss(&q, &k, &v, sinks));
    assert!(
        expected[0].chunks_exact(64).all(|row| row[48..].iter().all(|v| v.abs() < 1e-6)),
        "all to the sink"
    );
    for dev in cpus() {
        for (i, found) in run(&dev).iter().enumerate() {
            assert_close(&format!("sinks {i}"), found, &expected[i], 5e-6);
        }
    }
}

#[test]
fn attention_agrees_for_segments_groups_windows_and_head_widths() {
    let dev = Device::reference();
    for (dim, window, cap, lens) in [
        (16, None, None, vec![5, 1, 30]),
        (16, None, Some(1.5), vec![7, 20]),
        (64, None, None, vec![70, 130]),
        (80, Some(9), Some(3.0), vec![100]),
        (16, Some(1), None, vec![3]),
    ] {
        let heads = Heads { q: 4, kv: 2, dim, scale: 1.0 / (dim as f32).sqrt(), window, cap };
        let rows: usize = lens.iter().sum();
        let mut start = 0;
        let segments: Vec<Segment> = lens
            .iter()
            .map(|n| {
                start += n;
                Segment::own(start - n, *n)
            })
            .collect();
        let (q, d_o) = (random(&dev, rows, 4 * dim, "q"), random(&dev, rows, 4 * dim, "do"));
        let (k, v) = (random(&dev, rows, 2 * dim, "k"), random(&dev, rows, 2 * dim, "v"));
        let run = |dev: &Device, precision| {
            let (o, lse) = attention::forward(
                dev.ctx(precision),
                Attention { q: &q, k: &k, v: &v, segments: &segments, heads },
            )
            .unwrap();
            let (dq, dk, dv) = attention::backward(
                dev.ctx(precision),
                Attention { q: &q, k: &k, v: &v, segments: &segments, heads },
                Outputs { o: &o, lse: &lse, d_o: &d_o },
            )
            .unwrap();
            [o, lse, dq, dk, dv].map(|t| t.to_vec())
        };
        let expected = run(&dev, Precision::F32);
        let loss = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let dev = Device::reference();
            inner(
                &attention::forward(
                    dev.ctx(Precision::F32),
                    Attention { q, k, v, segments: &segments, heads },
                )
                .unwrap()
                .0,
                &d_o,
            )
        };
        if rows < 50 && window.is_none() {
            finite_difference("attention dq", &q, &expected[2], |q| loss(q, &k, &v));
            finite_difference("attention dk", &k, &expected[3], |k| loss(&q, k, &v));
            finite_difference("attention dv", &v, &expected[4], |v| loss(&q, &k, v));
        }
        for dev in cpus() {
            for (precision, limit) in [(Precision::F32, 5e-6), (Precision::Bf16, 3e-2)] {
                for (i, found) in run(&dev, precision).iter().enumerate() {
                    // A window of one key has scores without effect: dq and dk are zero up to rounding.
                    if window != Some(1) || !(i == 2 || i == 3) {
                        assert_close(
                            &format!("attention {i} dim={dim} {precision:?}"),
                            found,
                            &expected[i],
                            limit,
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn attention_over_a_cache_equals_attention_over_the_whole() {
    let heads = Heads { q: 2, kv: 1, dim: 16, scale: 0.25, window: None, cap: None };
    let dev = Device::reference();
    let (q, k, v) = (random(&dev, 80, 32, "q"), random(&dev, 80, 16, "k"), random(&dev, 80, 16, "v"));
    let whole = attention::forward(
        dev.ctx(Precision::F32),
        Attention { q: &q, k: &k, v: &v, segments: &[Segment::own(0, 80)], heads },
    )
    .unwrap()
    .0;
    for dev in cpus().into_iter().chain([Device::reference()]) {
        let last = dev.tensor(3, 32, &q.host_f32()[77 * 32..]);
        let segment = Segment { q_start: 0, q_len: 3, k_start: 0, k_len: 80, parent: None };
        let o = attention::forward(
            dev.ctx(Precision::F32),
            Attention { q: &last, k: &k, v: &v, segments: &[segment], heads },
        )
        .unwrap()
        .0;
        assert_close("cached attention", o.host_f32(), &whole.host_f32()[77 * 32..], 3e-6);
    }
}

/// Few queries of each segment, whose keys and values are read where they lie.
#[test]
fn few_queries_agree_on_any_number_of_threads() {
    let dev = Device::reference();
    for (dim, window, cap) in
        [(16, None, None), (64, Some(5), None), (84, None, Some(1.5)), (21, Some(1), None)]
    {
        let heads = Heads { q: 6, kv: 2, dim, scale: 1.0 / (dim as f32).sqrt(), window, cap };
        let lens = [(1, 1), (1, 70), (4, 4), (3, 131), (2, 9)];
        let (mut q_start, mut k_start) = (0, 0);
        let segments: Vec<Segment> = lens
            .iter()
            .map(|&(q_len, k_len)| {
                let s = Segment { q_start, q_len, k_start, k_len, parent: None };
                (q_start, k_start) = (q_start + q_len, k_start + k_len + 3);
                s
            })
            .collect();
        let narrow = |t: &Tensor| elementwise::cast(&dev, t, DType::Bf16);
        let q = narrow(&random(&dev, q_start, 6 * dim, "q"));
        let (k, v) = (random(&dev, k_start, 2 * dim, "k"), random(&dev, k_start, 2 * dim, "v"));
        let (k, v) = (narrow(&k), narrow(&v));
        let wide = [&q, &k, &v].map(|t| elementwise::cast(&dev, t, DType::F32));
        let run = |dev: &Device, [q, k, v]: [&Tensor; 3], precision| {
            let (o, lse) =
                attention::forward(dev.ctx(precision), Attention { q, k, v, segments: &segments, heads })
                    .unwrap();
            [o.to_vec(), lse.to_vec()]
        };
        let expected = run(&dev, wide.each_ref(), Precision::F32);
        for dev in cpus() {
            let found = run(&dev, wide.each_ref(), Precision::F32);
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(&format!("few queries dim={dim}"), found, expected, 3e-6);
            }
            // bf16 in memory is what its values are in f32, in either precision.
            assert!(run(&dev, [&q, &k, &v], Precision::Bf16) == found, "dim={dim} {dev:?}");
            let Device::Cpu(cpu) = &dev else { unreachable!("a CPU device") };
            for threads in [1, 5] {
                let other = Device::Cpu(Cpu::new(threads, cpu.isa()).unwrap());
                assert!(run(&other, wide.each_ref(), Precision::F32) == found, "dim={dim} {threads}");
            }
        }
    }
}
