//! Every op: the reference against finite differences, and each CPU version against the reference.

#![allow(clippy::print_stdout)]

use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::ops::attention::{Heads, Segment};
use ferrotune_kernels::ops::elementwise::Dropout;
use ferrotune_kernels::ops::linear::{Branch, Grads, Linear, Matrix};
use ferrotune_kernels::ops::*;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device, Precision, Tensor, Weight};

fn random(dev: &Device, rows: usize, cols: usize, name: &str) -> Tensor {
    let s = Stream::new(3, name, 0);
    let values: Vec<f32> = (0..(rows * cols) as u64).map(|i| s.normal(i)).collect();
    dev.tensor(rows, cols, &values)
}

/// The CPU on every instruction set that this machine has; says which are skipped.
#[allow(clippy::print_stdout)]
fn cpus() -> Vec<Device> {
    let (have, lack): (Vec<Isa>, Vec<Isa>) = Isa::ALL.into_iter().partition(|i| i.available());
    if !lack.is_empty() {
        println!("not on this CPU: {}", lack.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "));
    }
    have.into_iter()
        .flat_map(|isa| [1, 3].map(|threads| Device::Cpu(Cpu::new(threads, isa).unwrap())))
        .collect()
}

/// Largest difference over the largest expected value.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    found
        .iter()
        .zip(expected)
        .fold(0.0f32, |m, (a, b)| if a.is_finite() { m.max((a - b).abs() / scale) } else { f32::INFINITY })
}

fn assert_close(what: &str, found: &[f32], expected: &[f32], limit: f32) {
    let e = error(found, expected);
    assert!(e <= limit, "{what}: error {e} > {limit}");
}

/// Checks `gradient` of `f` at `x` by central differences along random directions.
fn finite_difference(what: &str, x: &Tensor, gradient: &[f32], f: impl Fn(&Tensor) -> f64) {
    let dev = Device::reference();
    for trial in 0..4 {
        let s = Stream::new(9, what, trial);
        let direction: Vec<f32> = (0..x.len() as u64).map(|i| s.normal(i)).collect();
        let h = 1e-2f32;
        let shifted = |sign: f32| {
            let values: Vec<f32> = x.f32().iter().zip(&direction).map(|(v, d)| v + sign * h * d).collect();
            f(&dev.tensor(x.rows(), x.cols(), &values))
        };
        let numeric = (shifted(1.0) - shifted(-1.0)) / (2.0 * h as f64);
        let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| *g as f64 * *d as f64).sum();
        let norm = gradient.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-3, "{what}: the gradient is (nearly) zero");
        assert!(
            (numeric - analytic).abs() < 4e-3 * norm.max(1.0),
            "{what}: {numeric} by differences, {analytic} computed"
        );
    }
}

/// What an op added to gradients that stood at `start`.
fn added(sums: &[f32], start: &Tensor) -> Vec<f32> {
    sums.iter().zip(start.f32()).map(|(s, v)| s - v).collect()
}

/// `sum(y * weights)`: a scalar whose gradient in y is `weights`.
fn inner(y: &Tensor, weights: &Tensor) -> f64 {
    y.f32().iter().zip(weights.f32()).map(|(a, b)| *a as f64 * *b as f64).sum()
}

#[test]
fn rms_norm_agrees() {
    let dev = Device::reference();
    let (x, w, dy) = (random(&dev, 7, 50, "x"), random(&dev, 1, 50, "w"), random(&dev, 7, 50, "dy"));
    let run = |dev: &Device, x: &Tensor, w: &Tensor| {
        let y = rms_norm::forward(dev, x, w, 1e-5).unwrap();
        // Both are added to.
        let (mut dx, mut dw) = (random(dev, 7, 50, "dx"), random(dev, 1, 50, "dw"));
        rms_norm::backward(dev, x, w, 1e-5, &dy, &mut dx, Some(&mut dw)).unwrap();
        [y.to_vec(), dx.to_vec(), dw.to_vec()]
    };
    let expected = run(&dev, &x, &w);
    let loss =
        |x: &Tensor, w: &Tensor| inner(&rms_norm::forward(&Device::reference(), x, w, 1e-5).unwrap(), &dy);
    let (dx, dw) =
        (added(&expected[1], &random(&dev, 7, 50, "dx")), added(&expected[2], &random(&dev, 1, 50, "dw")));
    finite_difference("rms_norm dx", &x, &dx, |x| loss(x, &w));
    finite_difference("rms_norm dw", &w, &dw, |w| loss(&x, w));
    for dev in cpus() {
        for (i, found) in run(&dev, &x, &w).iter().enumerate() {
            assert_close(&format!("rms_norm {i}"), found, &expected[i], 2e-6);
        }
    }
}

#[test]
fn swiglu_agrees() {
    let dev = Device::reference();
    let (g, u, dy) = (random(&dev, 5, 700, "g"), random(&dev, 5, 700, "u"), random(&dev, 5, 700, "dy"));
    let (dg, du) = swiglu::backward(&dev, &g, &u, &dy).unwrap();
    let loss = |g: &Tensor, u: &Tensor| inner(&swiglu::forward(&Device::reference(), g, u).unwrap(), &dy);
    finite_difference("swiglu dgate", &g, dg.f32(), |g| loss(g, &u));
    finite_difference("swiglu dup", &u, du.f32(), |u| loss(&g, u));
    let y = swiglu::forward(&dev, &g, &u).unwrap();
    for dev in cpus() {
        assert_close("swiglu", swiglu::forward(&dev, &g, &u).unwrap().f32(), y.f32(), 1e-6);
        let found = swiglu::backward(&dev, &g, &u, &dy).unwrap();
        assert_close("swiglu dgate", found.0.f32(), dg.f32(), 1e-6);
        assert_close("swiglu dup", found.1.f32(), du.f32(), 1e-6);
    }
}

fn rope_table(dev: &Device, half: usize) -> (Tensor, Tensor) {
    let angle = |i: usize| (i / half) as f32 / 10f32.powf((i % half) as f32);
    let values: Vec<f32> = (0..40 * half).map(angle).collect();
    let map = |f: fn(f32) -> f32| values.iter().map(|v| f(*v)).collect::<Vec<_>>();
    (dev.tensor(40, half, &map(f32::cos)), dev.tensor(40, half, &map(f32::sin)))
}

#[test]
fn rope_agrees_and_its_backward_is_its_inverse() {
    let dev = Device::reference();
    let positions: Vec<u32> = (0..9).map(|t| (t * 7) % 40).collect();
    let (cos, sin) = rope_table(&dev, 3);
    let (x, dy) = (random(&dev, 9, 16, "x"), random(&dev, 9, 16, "dy"));
    // Heads of 8 of which 6 are rotated.
    let forward = |dev: &Device, x: &Tensor| {
        let mut y = elementwise::cast(dev, x, DType::F32);
        rope::forward(dev, &mut y, 8, &positions, &cos, &sin).unwrap();
        y
    };
    let mut dx = elementwise::cast(&dev, &dy, DType::F32);
    rope::backward(&dev, &mut dx, 8, &positions, &cos, &sin).unwrap();
    finite_difference("rope dx", &x, dx.f32(), |x| inner(&forward(&Device::reference(), x), &dy));
    let y = forward(&dev, &x);
    assert!(error(y.f32(), x.f32()) > 0.1, "rope must change x");
    for dev in cpus() {
        let mut found = forward(&dev, &x);
        assert_close("rope", found.f32(), y.f32(), 1e-6);
        rope::backward(&dev, &mut found, 8, &positions, &cos, &sin).unwrap();
        assert_close("rope inverse", found.f32(), x.f32(), 1e-6);
    }
    let mut x = random(&dev, 1, 16, "x");
    assert!(rope::forward(&dev, &mut x, 8, &[40], &cos, &sin).is_err(), "a position outside the table");
}

struct LinearCase {
    x: Tensor,
    weights: Vec<Weight>,
    bias: Tensor,
    branches: Vec<(Tensor, Tensor)>,
    dys: Vec<Tensor>,
    drop: Option<Dropout>,
}

const SIZES: [(usize, usize); 3] = [(70, 8), (24, 4), (24, 0)];

impl LinearCase {
    fn new(m: usize, k: usize, drop: Option<Dropout>) -> Self {
        let dev = Device::reference();
        LinearCase {
            x: random(&dev, m, k, "x"),
            weights: SIZES
                .iter()
                .map(|(n, _)| Weight::from_f32(*n, k, random(&dev, *n, k, "w").f32()))
                .collect(),
            bias: random(&dev, 1, SIZES[0].0, "bias"),
            branches: SIZES
                .iter()
                .filter(|(_, r)| *r > 0)
                .map(|(n, r)| (random(&dev, *r, k, "a"), random(&dev, *n, *r, "b")))
                .collect(),
            dys: SIZES.iter().map(|(n, _)| random(&dev, m, *n, &format!("dy{n}"))).collect(),
            drop,
        }
    }

    fn linears<'a>(&'a self, a0: &'a Tensor, b0: &'a Tensor) -> Vec<Linear<'a>> {
        (0..SIZES.len())
            .map(|i| Linear {
                weight: Matrix::Frozen(&self.weights[i]),
                bias: (i == 0).then_some(&self.bias),
                branch: self.branches.get(i).map(|(a, b)| Branch {
                    a: if i == 0 { a0 } else { a },
                    b: if i == 0 { b0 } else { b },
                    scale: 0.5,
                    dropout: self.drop,
                }),
            })
            .collect()
    }

    /// Where the sums of a branch's gradients stand before: whole steps add to what other micro-batches left.
    fn starts(&self, dev: &Device, branch: usize) -> (Tensor, Tensor) {
        let (a, b) = &self.branches[branch];
        (random(dev, a.rows(), a.cols(), "dA"), random(dev, b.rows(), b.cols(), "dB"))
    }

    /// Outputs, `H`, dX, and dA, dB of the first two, all added to something.
    fn run(&self, dev: &Device, precision: Precision) -> Vec<Vec<f32>> {
        let (m, k) = (self.x.rows(), self.x.cols());
        let (a0, b0) = &self.branches[0];
        let linears = self.linears(a0, b0);
        let mut outs: Vec<Tensor> = SIZES.iter().map(|(n, _)| dev.tensor(m, *n, &vec![1.0; m * n])).collect();
        let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
        let h = linear::forward(dev, precision, &self.x, &linears, &mut refs, true).unwrap();
        let mut dx = dev.tensor(m, k, &vec![1.0; m * k]);
        let mut sums: Vec<(Tensor, Tensor)> = (0..self.branches.len()).map(|i| self.starts(dev, i)).collect();
        let mut grads: Vec<Grads<'_>> =
            sums.iter_mut().map(|(a, b)| Grads { a: Some(a), b: Some(b), ..Grads::default() }).collect();
        grads.push(Grads::default());
        let dys: Vec<&Tensor> = self.dys.iter().collect();
        linear::backward(
            dev,
            precision,
            &self.x,
            h.as_ref(),
            &linears,
            &dys,
            Some(&mut dx),
            true,
            &mut grads,
        )
        .unwrap();
        let mut all: Vec<Vec<f32>> = outs.iter().map(Tensor::to_vec).collect();
        all.push(h.unwrap().to_vec());
        all.push(dx.to_vec());
        all.extend(sums.iter().flat_map(|(a, b)| [a.to_vec(), b.to_vec()]));
        all
    }

    fn loss(&self, x: &Tensor, a0: &Tensor, b0: &Tensor) -> f64 {
        let dev = Device::reference();
        let mut outs: Vec<Tensor> = SIZES.iter().map(|(n, _)| dev.zeros(x.rows(), *n)).collect();
        let mut refs: Vec<&mut Tensor> = outs.iter_mut().collect();
        linear::forward(&dev, Precision::F32, x, &self.linears(a0, b0), &mut refs, false).unwrap();
        outs.iter().zip(&self.dys).map(|(y, dy)| inner(y, dy)).sum()
    }
}

#[test]
fn linear_agrees_with_and_without_dropout() {
    let drop = Dropout { p: 0.3, stream: Stream::new(5, "drop", 1) };
    for (m, k, drop) in [(3, 40, None), (11, 40, None), (100, 130, None), (11, 40, Some(drop))] {
        let case = LinearCase::new(m, k, drop);
        let expected = case.run(&Device::reference(), Precision::F32);
        for dev in cpus() {
            for (precision, limit) in [(Precision::F32, 3e-6), (Precision::Bf16, 2e-2)] {
                for (i, found) in case.run(&dev, precision).iter().enumerate() {
                    assert_close(
                        &format!("linear output {i} m={m} {precision:?}"),
                        found,
                        &expected[i],
                        limit,
                    );
                }
            }
        }
        let (a0, b0) = &case.branches[0];
        let dx: Vec<f32> = expected[4].iter().map(|v| v - 1.0).collect();
        finite_difference("linear dx", &case.x, &dx, |x| case.loss(x, a0, b0));
        let (a_start, b_start) = case.starts(&Device::reference(), 0);
        finite_difference("linear dA", a0, &added(&expected[5], &a_start), |a| case.loss(&case.x, a, b0));
        finite_difference("linear dB", b0, &added(&expected[6], &b_start), |b| case.loss(&case.x, a0, b));
    }
}

#[test]
fn a_trained_linear_gets_weight_and_bias_gradients() {
    let dev = Device::reference();
    let (x, w, b, dy) = (
        random(&dev, 20, 30, "x"),
        random(&dev, 10, 30, "w"),
        random(&dev, 1, 10, "b"),
        random(&dev, 20, 10, "dy"),
    );
    let run = |dev: &Device, precision| {
        let linears = [Linear { weight: Matrix::Trained(&w), bias: Some(&b), branch: None }];
        let (mut dw, mut db) = (random(dev, 10, 30, "dw"), random(dev, 1, 10, "db"));
        let mut grads = [Grads { weight: Some(&mut dw), bias: Some(&mut db), ..Grads::default() }];
        linear::backward(dev, precision, &x, None, &linears, &[&dy], None, false, &mut grads).unwrap();
        (dw.to_vec(), db.to_vec())
    };
    let (dw, db) = run(&dev, Precision::F32);
    let loss = |w: &Tensor, b: &Tensor| {
        let dev = Device::reference();
        let mut y = dev.zeros(20, 10);
        let linears = [Linear { weight: Matrix::Trained(w), bias: Some(b), branch: None }];
        linear::forward(&dev, Precision::F32, &x, &linears, &mut [&mut y], false).unwrap();
        inner(&y, &dy)
    };
    let own = (added(&dw, &random(&dev, 10, 30, "dw")), added(&db, &random(&dev, 1, 10, "db")));
    finite_difference("linear dW", &w, &own.0, |w| loss(w, &b));
    finite_difference("linear db", &b, &own.1, |b| loss(&w, b));
    for dev in cpus() {
        for (precision, limit) in [(Precision::F32, 3e-6), (Precision::Bf16, 2e-2)] {
            let found = run(&dev, precision);
            assert_close("linear dW", &found.0, &dw, limit);
            assert_close("linear db", &found.1, &db, limit);
        }
    }
}

#[test]
fn attention_agrees_for_segments_groups_windows_and_head_widths() {
    let dev = Device::reference();
    for (dim, window, lens) in [
        (16, None, vec![5, 1, 30]),
        (64, None, vec![70, 130]),
        (80, Some(9), vec![100]),
        (16, Some(1), vec![3]),
    ] {
        let heads = Heads { q: 4, kv: 2, dim, scale: 1.0 / (dim as f32).sqrt(), window };
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
            let (o, lse) = attention::forward(dev, precision, &q, &k, &v, &segments, heads).unwrap();
            let (dq, dk, dv) =
                attention::backward(dev, precision, (&q, &k, &v), (&o, &lse), &d_o, &segments, heads)
                    .unwrap();
            [o, lse, dq, dk, dv].map(|t| t.to_vec())
        };
        let expected = run(&dev, Precision::F32);
        let loss = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let dev = Device::reference();
            inner(&attention::forward(&dev, Precision::F32, q, k, v, &segments, heads).unwrap().0, &d_o)
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
    let heads = Heads { q: 2, kv: 1, dim: 16, scale: 0.25, window: None };
    let dev = Device::reference();
    let (q, k, v) = (random(&dev, 80, 32, "q"), random(&dev, 80, 16, "k"), random(&dev, 80, 16, "v"));
    let whole =
        attention::forward(&dev, Precision::F32, &q, &k, &v, &[Segment::own(0, 80)], heads).unwrap().0;
    for dev in cpus().into_iter().chain([Device::reference()]) {
        let last = dev.tensor(3, 32, &q.f32()[77 * 32..]);
        let segment = Segment { q_start: 0, q_len: 3, k_start: 0, k_len: 80 };
        let o = attention::forward(&dev, Precision::F32, &last, &k, &v, &[segment], heads).unwrap().0;
        assert_close("cached attention", o.f32(), &whole.f32()[77 * 32..], 3e-6);
    }
}

#[test]
fn softmax_xent_agrees() {
    let dev = Device::reference();
    let logits = random(&dev, 6, 5000, "logits");
    let targets = [0, 4999, 17, 2048, 2047, 1];
    let run = |dev: &Device| {
        let mut l = elementwise::cast(dev, &logits, DType::F32);
        let losses = softmax_xent::forward(dev, &mut l, &targets, 0.5, true).unwrap();
        (losses, l.to_vec())
    };
    let (losses, gradient) = run(&dev);
    finite_difference("softmax_xent", &logits, &gradient, |x| {
        let dev = Device::reference();
        let mut l = elementwise::cast(&dev, x, DType::F32);
        let losses = softmax_xent::forward(&dev, &mut l, &targets, 0.5, false).unwrap();
        losses.iter().map(|v| 0.5 * *v as f64).sum()
    });
    for dev in cpus() {
        let found = run(&dev);
        assert_close("token losses", &found.0, &losses, 1e-6);
        assert_close("dlogits", &found.1, &gradient, 1e-6);
    }
    let mut l = random(&dev, 1, 10, "l");
    assert!(
        softmax_xent::forward(&dev, &mut l, &[10], 1.0, true).is_err(),
        "a target outside the vocabulary"
    );
}

#[test]
fn embedding_agrees() {
    let dev = Device::reference();
    let (table, dy) = (random(&dev, 12, 70, "table"), random(&dev, 5, 70, "dy"));
    let tokens = [3, 0, 3, 11, 7];
    let run = |dev: &Device| {
        let y = embedding::forward(dev, Matrix::Trained(&table), &tokens, 1.5).unwrap();
        let mut d = random(dev, 12, 70, "d");
        embedding::backward(dev, &dy, &tokens, 1.5, &mut d).unwrap();
        (y.to_vec(), d.to_vec())
    };
    let expected = run(&dev);
    finite_difference("embedding", &table, &added(&expected.1, &random(&dev, 12, 70, "d")), |t| {
        let dev = Device::reference();
        inner(&embedding::forward(&dev, Matrix::Trained(t), &tokens, 1.5).unwrap(), &dy)
    });
    for dev in cpus() {
        assert_eq!(run(&dev), expected);
    }
    assert!(embedding::forward(&dev, Matrix::Trained(&table), &[12], 1.0).is_err());
}

#[test]
fn adamw_and_the_norm_agree() {
    let dev = Device::reference();
    let constants = adamw::AdamW {
        lr: 1e-2,
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.1,
        step: 3,
        grad_scale: 0.5,
    };
    let run = |dev: &Device| {
        let mut p: Vec<Tensor> = ["p", "m", "v"].iter().map(|n| random(dev, 100, 300, n)).collect();
        p[2].f32_mut().iter_mut().for_each(|v| *v = v.abs());
        let grad = random(dev, 100, 300, "g");
        let norm = adamw::norm(dev, &[&grad, &p[0]]);
        let [value, m, v] = p.get_disjoint_mut([0, 1, 2]).unwrap();
        adamw::update(dev, constants, &mut [adamw::Param { value, grad: &grad, m, v, decay: true }]).unwrap();
        (p.iter().map(Tensor::to_vec).collect::<Vec<_>>(), norm)
    };
    let (expected, norm) = run(&dev);
    assert!((norm - (60_000f64).sqrt()).abs() < 3.0);
    for dev in cpus() {
        let (found, n) = run(&dev);
        assert!((n / norm - 1.0).abs() < 1e-12);
        for (f, e) in found.iter().zip(&expected) {
            assert_close("adamw", f, e, 1e-6);
        }
    }
}

#[test]
fn elementwise_agrees() {
    let dev = Device::reference();
    let (x, y) = (random(&dev, 100, 400, "x"), random(&dev, 100, 400, "y"));
    let drop = Dropout { p: 0.25, stream: Stream::new(1, "d", 2) };
    let run = |dev: &Device| {
        let mut sum = elementwise::cast(dev, &y, DType::F32);
        elementwise::add(dev, &mut sum, &x).unwrap();
        let narrow = elementwise::cast(dev, &x, DType::Bf16);
        let wide = elementwise::cast(dev, &narrow, DType::F32);
        (sum.to_vec(), narrow.to_vec(), wide.to_vec(), elementwise::dropout(dev, &x, drop).to_vec())
    };
    let expected = run(&dev);
    let kept = expected.3.iter().filter(|v| **v != 0.0).count();
    assert!((29_000..31_000).contains(&kept), "a quarter is dropped: {kept} kept of 40000");
    for dev in cpus() {
        assert_eq!(run(&dev), expected);
    }
}
