//! The gated delta rule: segments, groups of value heads, trees, caches, strong decays.

use ferrotune_kernels::cpu::Cpu;
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::gated_delta::{self, GatedDelta, Heads, Rule};
use ferrotune_kernels::ops::segments::Segment;
use ferrotune_kernels::{DType, Device, Tensor};

use super::trees::{BORDERS, SMALL, segments};
use super::{assert_close, cpus, error, finite_difference, inner, random};

fn heads(k: usize, v: usize, key_dim: usize, value_dim: usize) -> Heads {
    Heads { k, v, key_dim, value_dim, scale: 1.0 / (key_dim as f32).sqrt() }
}

/// Q, K, V, g, beta and the gradient of the output; what is written.
struct Inputs([Tensor; 6], Rule);

impl Inputs {
    /// Keys and queries of length one, decays of some size, shares between 0 and 1.
    fn new(dev: &Device, rows: usize, heads: Heads, decay: f32) -> Self {
        let unit = |name| {
            let mut t = random(dev, rows, heads.k * heads.key_dim, name);
            for head in t.host_f32_mut().chunks_exact_mut(heads.key_dim) {
                let length = head.iter().map(|v| v * v).sum::<f32>().sqrt();
                head.iter_mut().for_each(|v| *v /= length);
            }
            t
        };
        let each = |name, f: &dyn Fn(f32) -> f32| {
            let mut t = random(dev, rows, heads.v, name);
            t.host_f32_mut().iter_mut().for_each(|v| *v = f(*v));
            t
        };
        let value = |name| random(dev, rows, heads.v * heads.value_dim, name);
        let g = each("g", &|v| -decay * v * v);
        let beta = each("beta", &|v| 1.0 / (1.0 + (-v).exp()));
        Inputs([unit("q"), unit("k"), value("v"), g, beta, value("do")], Rule::Delta)
    }

    fn writing(self, rule: Rule) -> Self {
        Inputs(self.0, rule)
    }

    fn op<'a>(&'a self, segments: &'a [Segment], heads: Heads) -> GatedDelta<'a> {
        let [q, k, v, g, beta, _] = &self.0;
        GatedDelta { q, k, v, g, beta, segments, rule: self.1, heads }
    }

    /// `O`, dQ, dK, dV, dg, dbeta.
    fn run(&self, dev: &Device, segments: &[Segment], heads: Heads) -> [Vec<f32>; 6] {
        let x = self.op(segments, heads);
        let o = gated_delta::forward(dev, x).unwrap();
        let d = gated_delta::backward(dev, x, &self.0[5]).unwrap();
        [o, d.dq, d.dk, d.dv, d.dg, d.dbeta].map(|t| t.to_vec())
    }

    /// These rows of everything.
    fn rows(&self, dev: &Device, rows: &[usize]) -> Self {
        let some = self.0.each_ref().map(|t| {
            let row = |r: &usize| t.host_f32()[r * t.cols()..][..t.cols()].to_vec();
            dev.tensor(rows.len(), t.cols(), &rows.iter().flat_map(row).collect::<Vec<_>>())
        });
        Inputs(some, self.1)
    }
}

const NAMES: [&str; 6] = ["output", "dq", "dk", "dv", "dg", "dbeta"];

pub(super) fn row_of(lens: &[usize]) -> Vec<Segment> {
    let mut start = 0;
    let segment = |n: &usize| {
        start += n;
        Segment::own(start - n, *n)
    };
    lens.iter().map(segment).collect()
}

#[test]
fn gradients_are_those_of_differences() {
    let dev = Device::reference();
    for (heads, s, rule) in [
        (heads(2, 2, 5, 3), row_of(&[9, 1, 4]), Rule::Delta),
        (heads(1, 2, 4, 6), segments(SMALL), Rule::Delta),
        (heads(2, 4, 5, 3), segments(SMALL), Rule::Value),
    ] {
        let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads, 0.3).writing(rule);
        let found = inputs.run(&dev, &s, heads);
        for i in 0..5 {
            finite_difference(&format!("gated_delta {}", NAMES[i + 1]), &inputs.0[i], &found[i + 1], |t| {
                let mut x = inputs.op(&s, heads);
                *[&mut x.q, &mut x.k, &mut x.v, &mut x.g, &mut x.beta][i] = t;
                inner(&gated_delta::forward(&Device::reference(), x).unwrap(), &inputs.0[5])
            });
        }
    }
}

#[test]
fn every_instruction_set_agrees_and_threads_change_no_bit() {
    let dev = Device::reference();
    for (heads, lens, decay, rule) in [
        (heads(2, 2, 16, 16), &[1, 63, 64, 65, 130][..], 0.1, Rule::Delta),
        (heads(2, 4, 20, 36), &[130, 7], 0.02, Rule::Delta),
        (heads(1, 2, 64, 128), &[200], 0.0, Rule::Delta),
        (heads(1, 3, 80, 20), &[65, 1, 1, 20], 1.0, Rule::Delta),
        (heads(1, 1, 1, 1), &[70], 0.1, Rule::Delta),
        // More value heads of a key head than a task takes.
        (heads(2, 20, 16, 8), &[70, 3], 0.1, Rule::Delta),
        (heads(1, 17, 20, 16), &[130, 64, 5], 0.05, Rule::Value),
        (heads(2, 4, 64, 64), &[1, 200], 0.01, Rule::Value),
        // Decays of a hundred e-folds in a step, and none at all next to them.
        (heads(2, 2, 24, 16), &[150], 50.0, Rule::Delta),
        (heads(2, 2, 24, 16), &[150], 50.0, Rule::Value),
    ] {
        let s = row_of(lens);
        let inputs = Inputs::new(&dev, lens.iter().sum(), heads, decay).writing(rule);
        let expected = inputs.run(&dev, &s, heads);
        for dev in cpus() {
            let found = inputs.run(&dev, &s, heads);
            for i in 0..6 {
                let what = format!("{} {heads:?} {decay} {dev:?}", NAMES[i]);
                assert_close(&what, &found[i], &expected[i], 1e-5);
            }
            let Device::Cpu(cpu) = &dev else { unreachable!("a CPU device") };
            for threads in [1, 2, 3] {
                let other = Device::Cpu(Cpu::new(threads, cpu.isa()).unwrap());
                assert!(inputs.run(&other, &s, heads) == found, "{threads} threads, {heads:?}");
            }
            // A segment's bits do not depend on its neighbours.
            let mut alone = [const { Vec::new() }; 6];
            for segment in &s {
                let own = inputs.rows(&dev, &segment.queries().collect::<Vec<_>>());
                let found = own.run(&dev, &[Segment::own(0, segment.q_len)], heads);
                alone.iter_mut().zip(found).for_each(|(all, part)| all.extend(part));
            }
            assert!(alone == found, "packed and one by one differ, {heads:?} {dev:?}");
        }
    }
}

#[test]
fn narrow_inputs_are_their_values() {
    let (reference, heads, s) = (Device::reference(), heads(1, 2, 20, 24), row_of(&[70, 3]));
    let Inputs([q, k, v, g, beta, _], _) = Inputs::new(&reference, 73, heads, 0.1);
    let narrow = [&q, &k, &v].map(|t| elementwise::cast(&reference, t, DType::Bf16));
    let wide = narrow.each_ref().map(|t| elementwise::cast(&reference, t, DType::F32));
    let run = |dev: &Device, [q, k, v]: [&Tensor; 3]| {
        let x = GatedDelta { q, k, v, g: &g, beta: &beta, segments: &s, rule: Rule::Delta, heads };
        gated_delta::forward(dev, x).unwrap().to_vec()
    };
    for dev in cpus().into_iter().chain([reference]) {
        assert!(run(&dev, narrow.each_ref()) == run(&dev, wide.each_ref()), "{dev:?}");
    }
}

/// What rows for themselves give, a row for each segment from its tree's root down to it.
///
/// Only a segment's own row has an output gradient for it, and a token's gradient is the sum over the rows that it is in.
fn unfolded(dev: &Device, inputs: &Inputs, s: &[Segment], heads: Heads) -> [Vec<f32>; 6] {
    let rows: usize = s.iter().map(|s| s.q_len).sum();
    let mut all = inputs.run(dev, &[Segment::own(0, rows)], heads).map(|v| vec![0.0; v.len()]);
    for (i, own) in s.iter().enumerate() {
        let mut path = vec![i];
        while let Some(parent) = s[path[0]].parent {
            path.insert(0, parent);
        }
        let tokens: Vec<usize> = path.iter().flat_map(|p| s[*p].queries()).collect();
        let before = tokens.len() - own.q_len;
        let mut row = inputs.rows(dev, &tokens);
        let width = row.0[5].cols();
        row.0[5].host_f32_mut()[..before * width].fill(0.0);
        let found = row.run(dev, &[Segment::own(0, tokens.len())], heads);
        for (part, (all, found)) in all.iter_mut().zip(&found).enumerate() {
            let width = found.len() / tokens.len();
            for (j, token) in tokens.iter().enumerate().filter(|(j, _)| part > 0 || *j >= before) {
                for c in 0..width {
                    all[token * width + c] += found[j * width + c];
                }
            }
        }
    }
    all
}

#[test]
fn a_tree_gives_what_its_rows_give() {
    let dev = Device::reference();
    for (heads, shape, rule) in [
        (heads(1, 2, 6, 5), SMALL, Rule::Delta),
        (heads(2, 4, 20, 32), BORDERS, Rule::Delta),
        (heads(1, 9, 20, 8), BORDERS, Rule::Value),
    ] {
        let s = segments(shape);
        let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads, 0.05).writing(rule);
        let expected = unfolded(&dev, &inputs, &s, heads);
        let plain = inputs.run(&dev, &s, heads);
        let all: Vec<_> = cpus().iter().map(|dev| inputs.run(dev, &s, heads)).collect();
        for i in 0..6 {
            assert_close(&format!("{} of the plain loops", NAMES[i]), &plain[i], &expected[i], 3e-6);
        }
        // Every instruction set with one and with three threads.
        for two in all.chunks(2) {
            assert!(two[0] == two[1], "threads change bits: {heads:?}");
            for i in 0..6 {
                assert_close(&format!("{} {heads:?}", NAMES[i]), &two[0][i], &expected[i], 1e-5);
            }
        }
    }
}

#[test]
fn cached_states_go_on_where_they_stopped() {
    let (reference, total) = (Device::reference(), 90);
    for (heads, rule) in [
        (heads(1, 2, 20, 100), Rule::Delta),
        (heads(2, 2, 64, 64), Rule::Delta),
        (heads(1, 10, 20, 64), Rule::Value),
    ] {
        let inputs = Inputs::new(&reference, 2 * total, heads, 0.05).writing(rule);
        let whole = gated_delta::forward(&reference, inputs.op(&row_of(&[total, total]), heads)).unwrap();
        for dev in cpus().into_iter().chain([Device::reference()]) {
            // The second sequence has the third row of states, and runs ahead of the first.
            let mut states = dev.zeros(3, heads.v * heads.key_dim * heads.value_dim);
            let mut o = vec![0.0; whole.len()];
            let mut at = [0, 0];
            for lens in [[70, 80], [1, 1], [4, 2], [0, 1], [1, 0], [14, 6]] {
                let mut rows = Vec::new();
                let (mut sequences, mut some) = (Vec::new(), Vec::new());
                for i in (0..2).filter(|i| lens[*i] > 0) {
                    rows.extend(i * total + at[i]..i * total + at[i] + lens[i]);
                    at[i] += lens[i];
                    sequences.push([0, 2][i]);
                    some.push(lens[i]);
                }
                let part = inputs.rows(&dev, &rows);
                let s = row_of(&some);
                let found =
                    gated_delta::forward_cached(&dev, part.op(&s, heads), &mut states, &sequences).unwrap();
                for (row, found) in rows.iter().zip(found.host_f32().chunks(whole.cols())) {
                    o[row * whole.cols()..][..whole.cols()].copy_from_slice(found);
                }
            }
            assert_eq!(at, [total, total]);
            assert_close("cached states", &o, whole.host_f32(), 5e-6);
            assert!(states.host_f32()[states.cols()..2 * states.cols()].iter().all(|s| *s == 0.0));
            assert!(error(&states.host_f32()[..states.cols()], &vec![0.0; states.cols()]) > 0.1);
        }
    }
}

#[test]
fn what_is_no_input_is_refused() {
    let dev = Device::reference();
    let heads = heads(1, 2, 4, 4);
    let inputs = Inputs::new(&dev, 9, heads, 0.1);
    let forward = |s: &[Segment], heads| gated_delta::forward(&dev, inputs.op(s, heads)).map(|_| ());
    let s = row_of(&[4, 5]);
    forward(&s, heads).unwrap();
    assert!(forward(&s[..1], heads).is_err(), "rows without a segment");
    assert!(forward(&[s[0], s[1].after(Some(1))], heads).is_err(), "a parent that is itself");
    assert!(forward(&s, Heads { value_dim: 2, v: 4, k: 3, ..heads }).is_err(), "heads that do not divide");
    let cached = |s: &[Segment], sequences: &[usize]| {
        let mut states = dev.zeros(2, 2 * 16);
        gated_delta::forward_cached(&dev, inputs.op(s, heads), &mut states, sequences).map(|_| ())
    };
    cached(&s, &[1, 0]).unwrap();
    for wrong in [&[0][..], &[1, 1], &[0, 2]] {
        assert!(cached(&s, wrong).is_err(), "{wrong:?}");
    }
    assert!(cached(&[s[0], s[1].after(Some(0))], &[0, 1]).is_err(), "a parent and a cache");
}

/// Inputs that are sines of their places; what transformers 5.23.0 gives for them (`torch_recurrent_gated_delta_rule` of
/// Qwen3-Next, with torch's gradients): the last output, the gradients of token 5, and the lengths of all.
#[test]
fn transformers_gives_the_same() {
    let (rows, heads) = (70, heads(1, 2, 4, 3));
    let dev = Device::reference();
    let sines = |cols: usize, step: f64, first: f64, f: &dyn Fn(f64) -> f64| {
        let values: Vec<f32> = (0..rows * cols).map(|i| f((step * i as f64 + first).sin()) as f32).collect();
        dev.tensor(rows, cols, &values)
    };
    let unit = |mut t: Tensor| {
        for head in t.host_f32_mut().chunks_exact_mut(4) {
            let length = head.iter().map(|v| v * v).sum::<f32>().sqrt();
            head.iter_mut().for_each(|v| *v /= length);
        }
        t
    };
    let all = [
        unit(sines(4, 0.7, 0.1, &|v| v)),
        unit(sines(4, 1.3, 0.5, &|v| v)),
        sines(6, 0.9, 0.2, &|v| v),
        sines(2, 0.37, 0.3, &|v| -0.2 * (1.0 + v)),
        sines(2, 0.53, 0.4, &|v| 0.5 + 0.4 * v),
        sines(6, 1.1, 0.7, &|v| v),
    ];
    let inputs = Inputs(all, Rule::Delta);
    let expected: [(usize, &[f32], f32); 6] = [
        (69, &[-0.23201275, -0.17889065, 0.009612368, 0.16514006, 0.19721466, 0.08004117], 4.256_298),
        (5, &[0.42711276, -0.34144244, -0.60978364, 0.015209604], 8.519313),
        (5, &[0.10953242, 0.26874435, 0.11878217, -0.1994447], 3.152995),
        (5, &[0.07127204, -0.023683704, -0.09275771, -0.10638345, 0.06943266, 0.16937222], 1.7498441),
        (5, &[-0.018164884, -0.16750348], 1.802_175),
        (5, &[0.316_551_7, 0.268_294_1], 1.865_56),
    ];
    for dev in cpus().into_iter().chain([Device::reference()]) {
        let found = inputs.run(&dev, &row_of(&[rows]), heads);
        for (i, (row, values, length)) in expected.into_iter().enumerate() {
            let what = format!("{} {dev:?}", NAMES[i]);
            assert_close(&what, &found[i][row * values.len()..][..values.len()], values, 3e-6);
            let all = found[i].iter().map(|v| v * v).sum::<f32>().sqrt();
            assert_close(&what, &[all], &[length], 3e-6);
        }
    }
}
