//! Every op: the reference against finite differences, and each CPU version against the reference.

#![allow(clippy::print_stdout)]

mod adapters;
mod attention;
mod convolutions;
mod gated_delta;
mod linear;
mod norms;
mod ssd;
mod trees;

use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::ops::activation::{self, Activation};
use ferrotune_kernels::ops::decay::{self, Gates, Steps};
use ferrotune_kernels::ops::elementwise::Dropout;
use ferrotune_kernels::ops::linear::Matrix;
use ferrotune_kernels::ops::rope::{Pairs, Turn};
use ferrotune_kernels::ops::route::{Choice, Score};
use ferrotune_kernels::ops::softmax_xent::Logits;
use ferrotune_kernels::ops::xielu::{self, Xielu};
use ferrotune_kernels::ops::{adamw, eight_bit, elementwise, embedding, rope, route, softmax_xent};
use ferrotune_kernels::quant::dynamic8::{Blocks8, DynamicMap};
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{DType, Device, Tensor};

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
            let values: Vec<f32> =
                x.host_f32().iter().zip(&direction).map(|(v, d)| v + sign * h * d).collect();
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
    sums.iter().zip(start.host_f32()).map(|(s, v)| s - v).collect()
}

/// `sum(y * weights)`: a scalar whose gradient in y is `weights`.
fn inner(y: &Tensor, weights: &Tensor) -> f64 {
    y.host_f32().iter().zip(weights.host_f32()).map(|(a, b)| *a as f64 * *b as f64).sum()
}

#[test]
fn activations_agree() {
    let dev = Device::reference();
    let (g, u, dy) = (random(&dev, 5, 700, "g"), random(&dev, 5, 700, "u"), random(&dev, 5, 700, "dy"));
    // Differences are wrong where a limit lies between the two points: the first limit is beyond all values.
    let clamped = |limit| Activation::ClampedSwish { alpha: 1.7, limit };
    for act in [Activation::Silu, Activation::GeluTanh, Activation::Sigmoid, clamped(9.0), clamped(0.5)] {
        let run = |dev: &Device| {
            let (dg, du) = activation::gated_backward(dev, act, &g, &u, &dy, DType::F32).unwrap();
            let plain = activation::forward(dev, act, &g, DType::F32);
            let dx = activation::backward(dev, act, &g, &dy, DType::F32).unwrap();
            [activation::gated(dev, act, &g, &u, DType::F32).unwrap(), dg, du, plain, dx].map(|t| t.to_vec())
        };
        let expected = run(&dev);
        let reference = Device::reference;
        let gated = |g: &Tensor, u: &Tensor| {
            inner(&activation::gated(&reference(), act, g, u, DType::F32).unwrap(), &dy)
        };
        if act != clamped(0.5) {
            finite_difference("gated dgate", &g, &expected[1], |g| gated(g, &u));
            finite_difference("gated dup", &u, &expected[2], |u| gated(&g, u));
            finite_difference("activation", &g, &expected[4], |x| {
                inner(&activation::forward(&reference(), act, x, DType::F32), &dy)
            });
        }
        for dev in cpus() {
            for (i, found) in run(&dev).iter().enumerate() {
                assert_close(&format!("{act:?} {i}"), found, &expected[i], 1e-6);
            }
        }
    }
}

#[test]
fn gates_of_recurrences_are_right() {
    let dev = Device::reference();
    let [a, b, dg, dbeta] = ["a", "b", "dg", "dbeta"].map(|name| random(&dev, 7, 3, name));
    let [a_log, dt_bias] = ["A_log", "dt_bias"].map(|name| random(&dev, 1, 3, name));
    let gates = Gates { a: &a, b: &b, a_log: &a_log, dt_bias: &dt_bias };
    let loss = |x: Gates<'_>| {
        let (g, beta) = decay::forward(&Device::reference(), x).unwrap();
        assert!(g.host_f32().iter().all(|g| *g < 0.0), "a state never grows");
        inner(&g, &dg) + inner(&beta, &dbeta)
    };
    let (mut d_log, mut d_bias) = (random(&dev, 1, 3, "s"), random(&dev, 1, 3, "t"));
    let grads = decay::Grads { a_log: Some(&mut d_log), dt_bias: Some(&mut d_bias) };
    let (da, db) = decay::backward(&dev, gates, &dg, &dbeta, grads).unwrap();
    finite_difference("decay da", &a, da.host_f32(), |a| loss(Gates { a, ..gates }));
    finite_difference("decay db", &b, db.host_f32(), |b| loss(Gates { b, ..gates }));
    let d_log = added(d_log.host_f32(), &random(&dev, 1, 3, "s"));
    let d_bias = added(d_bias.host_f32(), &random(&dev, 1, 3, "t"));
    finite_difference("decay dA_log", &a_log, &d_log, |a_log| loss(Gates { a_log, ..gates }));
    finite_difference("decay ddt_bias", &dt_bias, &d_bias, |dt_bias| loss(Gates { dt_bias, ..gates }));
    let far = dev.tensor(1, 3, &[-200.0, 0.0, 200.0]);
    let (g, _) = decay::forward(&dev, Gates { a: &far, b: &far, ..gates }).unwrap();
    assert!(g.host_f32().iter().all(|g| g.is_finite()));
}

#[test]
fn steps_of_state_spaces_are_right_and_stay_within_their_limits() {
    let dev = Device::reference();
    let [dt, d_steps] = ["dt", "d_steps"].map(|name| random(&dev, 7, 3, name));
    let [a_log, dt_bias, da] = ["A_log", "dt_bias", "da"].map(|name| random(&dev, 1, 3, name));
    let free = Steps { dt: &dt, a_log: &a_log, dt_bias: &dt_bias, limits: [0.0, f32::INFINITY] };
    let loss = |x: Steps<'_>| {
        let (steps, a) = decay::steps(&Device::reference(), x).unwrap();
        inner(&steps, &d_steps) + inner(&a, &da)
    };
    let (mut d_log, mut d_bias) = (random(&dev, 1, 3, "s"), random(&dev, 1, 3, "t"));
    let grads = decay::Grads { a_log: Some(&mut d_log), dt_bias: Some(&mut d_bias) };
    let d_dt = decay::steps_backward(&dev, free, &d_steps, &da, grads).unwrap();
    finite_difference("steps ddt", &dt, d_dt.host_f32(), |dt| loss(Steps { dt, ..free }));
    let d_log = added(d_log.host_f32(), &random(&dev, 1, 3, "s"));
    let d_bias = added(d_bias.host_f32(), &random(&dev, 1, 3, "t"));
    finite_difference("steps dA_log", &a_log, &d_log, |a_log| loss(Steps { a_log, ..free }));
    finite_difference("steps ddt_bias", &dt_bias, &d_bias, |dt_bias| loss(Steps { dt_bias, ..free }));

    let zero = dev.zeros(1, 3);
    let far = dev.tensor(1, 3, &[-200.0, 0.0, 200.0]);
    let limited = Steps { dt: &far, dt_bias: &zero, limits: [0.125, 2.0], ..free };
    let (steps, _) = decay::steps(&dev, limited).unwrap();
    assert_eq!([steps.host_f32()[0], steps.host_f32()[2]], [0.125, 2.0]);
    let ones = dev.tensor(1, 3, &[1.0; 3]);
    let d_dt = decay::steps_backward(&dev, limited, &ones, &zero, decay::Grads::default()).unwrap();
    assert_eq!(d_dt.host_f32(), [0.0, 0.5, 0.0]);
}

#[test]
fn xielu_agrees() {
    let dev = Device::reference();
    let (mut x, dy) = (random(&dev, 5, 70, "x"), random(&dev, 5, 70, "dy"));
    let (p, n) = (dev.tensor(1, 1, &[0.3]), dev.tensor(1, 1, &[-0.7]));
    let curve = Xielu { alpha_p: &p, alpha_n: &n, beta: 0.5, eps: -1e-6 };
    let run = |dev: &Device, x: &Tensor| {
        let y = xielu::forward(dev, x, curve, DType::F32).unwrap();
        let (mut dp, mut dn) = (dev.zeros(1, 1), dev.zeros(1, 1));
        let grads = xielu::Grads { alpha_p: Some(&mut dp), alpha_n: Some(&mut dn) };
        let dx = xielu::backward(dev, x, curve, &dy, DType::F32, grads).unwrap();
        [y, dx, dp, dn].map(|t| t.to_vec())
    };
    let expected = run(&dev, &x);
    let loss = |x: &Tensor, of: Xielu<'_>| {
        inner(&xielu::forward(&Device::reference(), x, of, DType::F32).unwrap(), &dy)
    };
    finite_difference("xielu dx", &x, &expected[1], |x| loss(x, curve));
    finite_difference("xielu dp", &p, &expected[2], |alpha_p| loss(&x, Xielu { alpha_p, ..curve }));
    finite_difference("xielu dn", &n, &expected[3], |alpha_n| loss(&x, Xielu { alpha_n, ..curve }));
    // Between eps and 0 the function has another slope than around them.
    x.host_f32_mut()[..4].copy_from_slice(&[0.0, -5e-7, -1e-3, -30.0]);
    let expected = run(&dev, &x);
    let at_zero = dy.host_f32()[0] * (0.5 - (0.5 + (-0.7f32).exp().ln_1p()));
    assert_close("slope at 0", &expected[1][..1], &[at_zero], 1e-6);
    for dev in cpus() {
        for (i, found) in run(&dev, &x).iter().enumerate() {
            assert_close(&format!("xielu {i}"), found, &expected[i], 1e-6);
        }
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
    for pairs in [Pairs::Halves, Pairs::Neighbours] {
        let turn = Turn { cos: &cos, sin: &sin, pairs };
        // Heads of 8 of which 6 are rotated.
        let forward = |dev: &Device, x: &Tensor| {
            let x = elementwise::cast(dev, x, DType::F32);
            rope::forward(dev, x, 8, &positions, turn, DType::F32).unwrap()
        };
        let dx = elementwise::cast(&dev, &dy, DType::F32);
        let dx = rope::backward(&dev, dx, 8, &positions, turn, DType::F32).unwrap();
        finite_difference("rope dx", &x, dx.host_f32(), |x| inner(&forward(&Device::reference(), x), &dy));
        let y = forward(&dev, &x);
        assert!(error(y.host_f32(), x.host_f32()) > 0.1, "rope must change x");
        for dev in cpus() {
            let found = forward(&dev, &x);
            assert_close("rope", found.host_f32(), y.host_f32(), 1e-6);
            let again = elementwise::cast(&dev, &x, DType::F32);
            let narrow = rope::forward(&dev, again, 8, &positions, turn, DType::Bf16).unwrap();
            let rounded = elementwise::cast(&dev, &found, DType::Bf16);
            assert_eq!(narrow.host_bf16(), rounded.host_bf16(), "the same, rounded");
            let back = rope::backward(&dev, found, 8, &positions, turn, DType::F32).unwrap();
            assert_close("rope inverse", back.host_f32(), x.host_f32(), 1e-6);
        }
        let x = random(&dev, 1, 16, "x");
        let outside = rope::forward(&dev, x, 8, &[40], turn, DType::F32);
        assert!(outside.is_err(), "a position outside the table");
    }
}

#[test]
fn softmax_xent_agrees() {
    let dev = Device::reference();
    // An odd vocabulary: a row of the narrow gradient begins in the middle of a word.
    let outputs = random(&dev, 13, 5001, "logits");
    let targets = [0, 5000, 17, 2048, 2047, 1, 4096, 3, 3, 12, 4999, 0, 7];
    let scales = [0.5, 0.5, 1.5, 0.25, 2.0, 0.5, 1.0, 1.0, 0.75, 0.5, 1.25, 0.5, 1.0];
    for how in [Logits::default(), Logits { scale: 0.25, cap: None }, Logits { scale: 1.5, cap: Some(2.0) }] {
        let run = |dev: &Device| {
            let copy = || elementwise::cast(dev, &outputs, DType::F32);
            let (losses, gradient) =
                softmax_xent::forward_backward(dev, copy(), &targets, how, &scales, DType::F32).unwrap();
            let (_, narrow) =
                softmax_xent::forward_backward(dev, copy(), &targets, how, &scales, DType::Bf16).unwrap();
            assert_eq!(narrow.to_vec(), elementwise::cast(dev, &gradient, DType::Bf16).to_vec());
            assert_eq!(softmax_xent::forward(dev, copy(), &targets, how).unwrap(), losses);
            let mut logits = elementwise::cast(dev, &outputs, DType::F32);
            softmax_xent::logits(dev, &mut logits, how);
            (losses, gradient.to_vec(), logits.to_vec())
        };
        let (losses, gradient, logits) = run(&dev);
        assert_eq!(logits == outputs.to_vec(), how == Logits::default());
        finite_difference("softmax_xent", &outputs, &gradient, |x| {
            let dev = Device::reference();
            let l = elementwise::cast(&dev, x, DType::F32);
            let losses = softmax_xent::forward(&dev, l, &targets, how).unwrap();
            losses.iter().zip(scales).map(|(v, scale)| scale as f64 * *v as f64).sum()
        });
        for dev in cpus() {
            let found = run(&dev);
            assert_close("token losses", &found.0, &losses, 1e-6);
            assert_close("dlogits", &found.1, &gradient, 1e-6);
            assert_close("logits", &found.2, &logits, 1e-6);
        }
    }
    let l = random(&dev, 1, 10, "l");
    assert!(
        softmax_xent::forward(&dev, l, &[10], Logits::default()).is_err(),
        "a target outside the vocabulary"
    );
    let (l, how) = (random(&dev, 1, 10, "l"), Logits::default());
    let few = softmax_xent::forward_backward(&dev, l, &[1], how, &[], DType::F32);
    assert!(few.is_err(), "a target without a scale");
}

#[test]
fn eight_bits_agree_and_are_within_half_a_step() {
    let reference = Device::reference();
    // Not a whole number of blocks; one block of zeros, one of tiny values.
    let mut values: Vec<f32> = random(&reference, 77, 131, "x").to_vec();
    values[64..128].fill(0.0);
    values[128..192].iter_mut().for_each(|v| *v *= 1e-38);
    for dtype in [DType::F32, DType::Bf16] {
        let run = |dev: &Device| {
            let x = elementwise::cast(dev, &dev.tensor(77, 131, &values), dtype);
            let back = eight_bit::unpack(dev, &eight_bit::pack(dev, &x));
            assert_eq!((back.shape(), back.dtype()), (x.shape(), dtype));
            (x.to_vec(), back.to_vec())
        };
        let (x, expected) = run(&reference);
        for (x, back) in x.chunks(eight_bit::BLOCK).zip(expected.chunks(eight_bit::BLOCK)) {
            let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
            // Half a step, the rounding of the scale and of a bf16 value; blocks without a normal step become zeros.
            let limit = largest * (0.5 / 127.0 + 1.0 / 256.0 + 1.0 / 256.0) + 128.0 * f32::MIN_POSITIVE;
            x.iter().zip(back).for_each(|(x, b)| assert!((x - b).abs() <= limit, "{x} became {b}"));
        }
        let mean = |f: &dyn Fn(f32, f32) -> f32| x.iter().zip(&expected).map(|(x, b)| f(*x, *b)).sum::<f32>();
        let relative = (mean(&|x, b| (x - b).powi(2)) / mean(&|x, _| x * x)).sqrt();
        assert!(relative < 0.007, "{relative}");
        for dev in cpus() {
            assert_eq!(run(&dev).1, expected, "{dev:?}");
        }
    }
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
    let run = |dev: &Device, lr: f64, lr_factor: f64| {
        let mut p: Vec<Tensor> = ["p", "m", "v"].iter().map(|n| random(dev, 100, 300, n)).collect();
        p[2].host_f32_mut().iter_mut().for_each(|v| *v = v.abs());
        let grad = random(dev, 100, 300, "g");
        let norm = adamw::norm(dev, [&grad, &p[0]]);
        let [value, m, v] = p.get_disjoint_mut([0, 1, 2]).unwrap();
        let mut copy = elementwise::cast(dev, value, DType::Bf16);
        let param = adamw::Param { value, grad: &grad, m, v, copy: Some(&mut copy), decay: true, lr_factor };
        adamw::update(dev, adamw::AdamW { lr, ..constants }, &mut [param]).unwrap();
        assert_eq!(
            copy.host_bf16(),
            elementwise::cast(dev, &p[0], DType::Bf16).host_bf16(),
            "what products read"
        );
        (p.iter().map(Tensor::to_vec).collect::<Vec<_>>(), norm)
    };
    let (expected, norm) = run(&dev, 1e-2, 1.0);
    assert_eq!(run(&dev, 2e-2, 0.5).0, expected, "a share of the step's learning rate");
    assert_ne!(run(&dev, 1e-2, 0.5).0, expected);
    assert!((norm - (60_000f64).sqrt()).abs() < 3.0);
    for dev in cpus() {
        let (found, n) = run(&dev, 2e-2, 0.5);
        assert!((n / norm - 1.0).abs() < 1e-12);
        for (f, e) in found.iter().zip(&expected) {
            assert_close("adamw", f, e, 1e-6);
        }
    }
}

#[test]
fn eight_bit_adamw_agrees_on_any_device() {
    let constants = adamw::AdamW {
        lr: 1e-2,
        betas: (0.9, 0.999),
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
        grad_scale: 0.5,
    };
    // 30 blocks of which the last is short.
    let (rows, cols) = (75, 101);
    let run = |dev: &Device| {
        let mut value = random(dev, rows, cols, "p");
        let mut m = Blocks8::zeros(DynamicMap::Signed, rows * cols);
        let mut v = Blocks8::zeros(DynamicMap::Unsigned, rows * cols);
        for step in 1..4 {
            let grad = random(dev, rows, cols, ["a", "b", "c"][step - 1]);
            let constants = adamw::AdamW { step: step as u64, ..constants };
            let p = adamw::Param8 {
                value: &mut value,
                grad: &grad,
                m: &mut m,
                v: &mut v,
                decay: true,
                lr_factor: 1.0,
            };
            adamw::update_8bit(dev, constants, &mut [p]).unwrap();
        }
        (value.to_vec(), m, v)
    };
    let (expected, m, v) = run(&Device::reference());
    for dev in cpus() {
        let found = run(&dev);
        assert_close("adamw8", &found.0, &expected, 1e-6);
        for (found, expected) in [(&found.1, &m), (&found.2, &v)] {
            let other = found.codes.iter().zip(&expected.codes).filter(|(a, b)| a != b).count();
            assert!(other <= 8, "{other} codes differ");
            assert_close("scales", &found.scales, &expected.scales, 1e-6);
        }
    }
    let dev = Device::reference();
    let (mut value, grad) = (random(&dev, 2, 3, "p"), random(&dev, 2, 3, "g"));
    let (mut m, mut v) = (Blocks8::zeros(DynamicMap::Signed, 5), Blocks8::zeros(DynamicMap::Unsigned, 6));
    let p =
        adamw::Param8 { value: &mut value, grad: &grad, m: &mut m, v: &mut v, decay: true, lr_factor: 1.0 };
    assert!(adamw::update_8bit(&dev, constants, &mut [p]).is_err(), "a moment of another length");
}

#[test]
fn elementwise_agrees() {
    let dev = Device::reference();
    let (x, y) = (random(&dev, 100, 400, "x"), random(&dev, 100, 400, "y"));
    let drop = Dropout { p: 0.25, stream: Stream::new(1, "d", 2) };
    let run = |dev: &Device| {
        let mut sum = elementwise::cast(dev, &y, DType::F32);
        elementwise::add(dev, &mut sum, &x, 0.5).unwrap();
        elementwise::scale(dev, &mut sum, 1.5);
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

#[test]
fn columns_and_rows_agree() {
    let dev = Device::reference();
    let (x, y) = (random(&dev, 30, 90, "x"), random(&dev, 7, 90, "y"));
    let rows: Vec<u32> = (0..30).map(|i| i * 5 % 7).collect();
    let weights: Vec<f32> = (0..30).map(|i| i as f32 / 7.0 - 1.0).collect();
    let run = |dev: &Device| {
        let parts = [0..40, 40..41, 41..90].map(|c| elementwise::columns(dev, &x, c).unwrap());
        assert_eq!(elementwise::join(dev, &parts.each_ref()).unwrap().to_vec(), x.to_vec());
        let narrow = elementwise::cast(dev, &x, DType::Bf16);
        let middle = elementwise::columns(dev, &narrow, 40..60).unwrap();
        assert_eq!(middle.dtype(), DType::Bf16);
        let mut sum = elementwise::cast(dev, &y, DType::F32);
        elementwise::add_rows(dev, &x, &rows, &weights, &mut sum).unwrap();
        let products = elementwise::row_products(dev, &x, &rows, &y).unwrap();
        [parts[1].to_vec(), middle.to_vec(), sum.to_vec(), products.to_vec()]
    };
    let expected = run(&dev);
    for (row, v) in expected[0].iter().enumerate() {
        assert_eq!(*v, x.host_f32()[row * 90 + 40]);
    }
    let by_hand: f32 = (0..30).filter(|i| rows[*i] == 3).map(|i| weights[i] * x.host_f32()[i * 90 + 8]).sum();
    assert!((expected[2][3 * 90 + 8] - y.host_f32()[3 * 90 + 8] - by_hand).abs() < 1e-5);
    // <dy, add_rows(w)> has the products as its gradient in w.
    let bump: f32 = expected[3].iter().zip(&weights).map(|(p, w)| p * w).sum();
    let total: f32 = expected[2].iter().zip(y.host_f32()).map(|(s, y)| (s - y) * y).sum();
    assert!((bump - total).abs() < 1e-3 * total.abs().max(1.0), "{bump} {total}");
    for dev in cpus() {
        for (i, found) in run(&dev).iter().enumerate() {
            assert_close(&format!("columns and rows {i}"), found, &expected[i], 2e-6);
        }
    }
    assert!(elementwise::columns(&dev, &x, 80..91).is_err());
    assert!(elementwise::join(&dev, &[&x, &y]).is_err());
    let mut sum = random(&dev, 2, 90, "s");
    assert!(elementwise::add_rows(&dev, &x, &rows, &weights, &mut sum).is_err(), "a row outside");
}

#[test]
fn routes_choose_the_largest_and_their_gradient_is_that_of_differences() {
    let dev = Device::reference();
    let logits = random(&dev, 6, 5, "logits");
    let dw = random(&dev, 6, 5, "dw");
    let correction = Some(vec![0.0, 0.9, 0.0, -0.9, 0.3]);
    let choice = |score, normalise, correction| Choice { k: 2, score, normalise, correction };
    for choice in [
        choice(Score::Softmax, true, None),
        choice(Score::Softmax, false, None),
        choice(Score::Sigmoid, true, correction.clone()),
        choice(Score::Sigmoid, false, None),
    ] {
        let routes = route::forward(&logits, &choice).unwrap();
        assert_eq!(routes.rows.iter().map(|rows| rows.len()).sum::<usize>(), 12);
        let total = |t: u32| -> f32 {
            let all = routes.rows.iter().zip(&routes.weights);
            all.flat_map(|(r, w)| r.iter().zip(w)).filter(|(r, _)| **r == t).map(|(_, w)| w).sum()
        };
        assert!((0..6).all(|t| (total(t) - 1.0).abs() < 1e-6) == choice.normalise);
        // The loss reads each chosen weight times a number of its own.
        let loss = |logits: &Tensor| -> f64 {
            let r = route::forward(logits, &choice).unwrap();
            let terms = r.rows.iter().zip(&r.weights).enumerate();
            terms
                .flat_map(|(e, (rows, w))| rows.iter().zip(w).map(move |(t, w)| (*t as usize, e, *w)))
                .map(|(t, e, w)| w as f64 * dw.host_f32()[t * 5 + e] as f64)
                .sum()
        };
        let of = |e: usize| routes.rows[e].iter().map(|t| dw.host_f32()[*t as usize * 5 + e]).collect();
        let d: Vec<Vec<f32>> = (0..5).map(of).collect();
        let gradient = route::backward(&dev, &logits, &choice, &routes, &d).unwrap();
        finite_difference("route", &logits, gradient.host_f32(), loss);
    }
    let one = Choice { k: 1, ..choice(Score::Softmax, true, None) };
    let ties = route::forward(&dev.tensor(1, 3, &[1.0, 1.0, 1.0]), &one).unwrap();
    assert_eq!(ties.rows, [vec![0], vec![], vec![]]);
    let corrected = Choice { correction: Some(vec![0.0, 0.1, 0.0]), ..one.clone() };
    let chosen = route::forward(&dev.tensor(1, 3, &[1.0, 1.0, 1.0]), &corrected).unwrap();
    assert_eq!((chosen.rows, &chosen.weights[1]), (vec![vec![], vec![0], vec![]], &vec![1.0]));
    assert!(route::forward(&logits, &Choice { k: 6, ..one.clone() }).is_err());
    assert!(route::forward(&logits, &corrected).is_err(), "three corrections for five experts");
    let (logits, dw) = (random(&dev, 6, 1, "gate"), random(&dev, 6, 1, "dgate"));
    let gradient = route::gate_backward(&dev, &logits, dw.host_f32()).unwrap();
    finite_difference("gate", &logits, gradient.host_f32(), |logits| {
        route::gate(logits).iter().zip(dw.host_f32()).map(|(w, d)| (w * d) as f64).sum()
    });
}
