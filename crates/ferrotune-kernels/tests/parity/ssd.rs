//! Mamba-2's state space: what it adds to the recurrence that it shares with the gated delta rule.

use ferrotune_kernels::cpu::Cpu;
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::ops::segments::Segment;
use ferrotune_kernels::ops::ssd::{self, Heads, Ssd};
use ferrotune_kernels::{DType, Device, Tensor};

use super::gated_delta::row_of;
use super::trees::{SMALL, segments};
use super::{assert_close, cpus, finite_difference, inner, random};

/// x, dt, a, B, C, D and the gradient of the output.
struct Inputs([Tensor; 7]);

impl Inputs {
    /// Steps above zero, `a` below.
    fn new(dev: &Device, rows: usize, heads: Heads) -> Self {
        let Heads { groups, count, state_dim, head_dim } = heads;
        let sized = |rows, cols, name, f: &dyn Fn(f32) -> f32| {
            let mut t = random(dev, rows, cols, name);
            t.host_f32_mut().iter_mut().for_each(|v| *v = f(*v));
            t
        };
        Inputs([
            random(dev, rows, count * head_dim, "x"),
            sized(rows, count, "dt", &|v| 0.2 * (0.5 * v).exp()),
            sized(1, count, "a", &|v| -1.0 - v * v),
            random(dev, rows, groups * state_dim, "b"),
            random(dev, rows, groups * state_dim, "c"),
            random(dev, 1, count, "d"),
            random(dev, rows, count * head_dim, "dy"),
        ])
    }

    fn op<'a>(&'a self, segments: &'a [Segment], heads: Heads) -> Ssd<'a> {
        let [x, dt, a, b, c, d, _] = &self.0;
        Ssd { x, dt, a, b, c, d, segments, heads }
    }

    /// y, dx, ddt, da, dB, dC, dD.
    fn run(&self, dev: &Device, segments: &[Segment], heads: Heads) -> [Vec<f32>; 7] {
        let x = self.op(segments, heads);
        let y = ssd::forward(dev, x).unwrap();
        let d = ssd::backward(dev, x, &self.0[6]).unwrap();
        [y, d.dx, d.ddt, d.da, d.db, d.dc, d.dd].map(|t| t.to_vec())
    }
}

const NAMES: [&str; 7] = ["y", "dx", "ddt", "da", "dB", "dC", "dD"];

/// In da the parts of all tokens nearly cancel each other.
const LIMITS: [f32; 7] = [1e-5, 1e-5, 1e-5, 5e-5, 1e-5, 1e-5, 1e-5];

#[test]
fn gradients_are_those_of_differences() {
    let dev = Device::reference();
    let heads = Heads { groups: 2, count: 4, state_dim: 3, head_dim: 5 };
    let s = segments(SMALL);
    let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads);
    let found = inputs.run(&dev, &s, heads);
    for i in 0..6 {
        finite_difference(&format!("ssd {}", NAMES[i + 1]), &inputs.0[i], &found[i + 1], |t| {
            let mut x = inputs.op(&s, heads);
            *[&mut x.x, &mut x.dt, &mut x.a, &mut x.b, &mut x.c, &mut x.d][i] = t;
            inner(&ssd::forward(&Device::reference(), x).unwrap(), &inputs.0[6])
        });
    }
}

#[test]
fn every_instruction_set_agrees_and_threads_change_no_bit() {
    let dev = Device::reference();
    for (heads, s) in [
        (Heads { groups: 1, count: 10, state_dim: 20, head_dim: 12 }, row_of(&[1, 130, 63])),
        (Heads { groups: 2, count: 2, state_dim: 64, head_dim: 64 }, row_of(&[100])),
        (Heads { groups: 1, count: 3, state_dim: 16, head_dim: 5 }, segments(SMALL)),
    ] {
        let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads);
        let expected = inputs.run(&dev, &s, heads);
        for dev in cpus() {
            let found = inputs.run(&dev, &s, heads);
            for i in 0..7 {
                assert_close(&format!("{} {heads:?} {dev:?}", NAMES[i]), &found[i], &expected[i], LIMITS[i]);
            }
            let Device::Cpu(cpu) = &dev else { unreachable!("a CPU device") };
            let other = Device::Cpu(Cpu::new(2, cpu.isa()).unwrap());
            assert!(inputs.run(&other, &s, heads) == found, "threads change bits: {heads:?}");
        }
    }
}

#[test]
fn cached_states_go_on_where_they_stopped() {
    let (reference, total) = (Device::reference(), 75);
    let heads = Heads { groups: 1, count: 2, state_dim: 20, head_dim: 70 };
    let Inputs([x, dt, a, b, c, d, _]) = Inputs::new(&reference, total, heads);
    // x in bf16: D x is of the same values.
    let x = elementwise::cast(&reference, &x, DType::Bf16);
    let all = row_of(&[total]);
    let op = Ssd { x: &x, dt: &dt, a: &a, b: &b, c: &c, d: &d, segments: &all, heads };
    let whole = ssd::forward(&reference, op).unwrap();
    for dev in cpus().into_iter().chain([Device::reference()]) {
        let mut states = dev.zeros(1, heads.count * heads.state_dim * heads.head_dim);
        let (mut y, mut at) = (Vec::new(), 0);
        for n in [70, 1, 3, 1] {
            let rows: Vec<u32> = (at..at + n as u32).collect();
            at += n as u32;
            let [x, dt, b, c] = [&x, &dt, &b, &c].map(|t| elementwise::gather(&dev, t, &rows).unwrap());
            let own = row_of(&[n]);
            let op = Ssd { x: &x, dt: &dt, a: &a, b: &b, c: &c, d: &d, segments: &own, heads };
            y.extend(ssd::forward_cached(&dev, op, &mut states, &[0]).unwrap().to_vec());
        }
        assert_close("cached states", &y, whole.host_f32(), 5e-6);
    }
}

/// Inputs that are sines of their places; what transformers 5.23.0 gives for them (`mamba2_chunk_scan` of Mamba-2 in chunks of
/// 16, with torch's gradients): the last output, the gradients of token 5, and the lengths of all.
#[test]
fn transformers_gives_the_same() {
    let (rows, heads) = (70, Heads { groups: 1, count: 2, state_dim: 4, head_dim: 3 });
    let dev = Device::reference();
    let sines = |cols: usize, step: f64, first: f64, f: &dyn Fn(f64) -> f64| {
        let values: Vec<f32> = (0..rows * cols).map(|i| f((step * i as f64 + first).sin()) as f32).collect();
        dev.tensor(rows, cols, &values)
    };
    let inputs = Inputs([
        sines(6, 0.9, 0.2, &|v| v),
        sines(2, 0.37, 0.3, &|v| 0.3 + 0.2 * v),
        dev.tensor(1, 2, &[-0.5, -2.0]),
        sines(4, 1.3, 0.5, &|v| v),
        sines(4, 0.7, 0.1, &|v| v),
        dev.tensor(1, 2, &[0.75, -0.25]),
        sines(6, 1.1, 0.7, &|v| v),
    ]);
    let expected: [(usize, &[f32], f32); 7] = [
        (
            69,
            &[-0.512_922_6, -0.815_882_9, -0.501_399_16, 1.265_897_4, 0.742_498_4, -0.342_808_5],
            15.331_422,
        ),
        (
            5,
            &[0.683_334_6, -0.194_356_75, -0.859_653_6, 0.080_057_29, -0.068_775_415, -0.142_449_81],
            8.869_061,
        ),
        (5, &[1.157_856_5, 1.096_714_6], 8.286_724),
        (0, &[0.577_327_55, 0.075_812_1], 0.582_283_9),
        (5, &[0.158_612_55, 0.110_016_07, 0.009_677_289, -0.095_212_86], 5.083_665),
        (5, &[0.910_613_24, -0.831_141_77, -1.355_272, 0.106_074_35], 17.614_81),
        (0, &[0.884_290_1, -0.597_092_9], 1.067),
    ];
    for dev in cpus().into_iter().chain([Device::reference()]) {
        let found = inputs.run(&dev, &row_of(&[rows]), heads);
        for (i, (row, values, length)) in expected.into_iter().enumerate() {
            let what = format!("{} {dev:?}", NAMES[i]);
            assert_close(&what, &found[i][row * values.len()..][..values.len()], values, LIMITS[i]);
            let all = found[i].iter().map(|v| v * v).sum::<f32>().sqrt();
            assert_close(&what, &[all], &[length], LIMITS[i]);
        }
    }
}

#[test]
fn what_is_no_input_is_refused() {
    let dev = Device::reference();
    let heads = Heads { groups: 1, count: 2, state_dim: 4, head_dim: 3 };
    let (inputs, s) = (Inputs::new(&dev, 3, heads), row_of(&[3]));
    ssd::forward(&dev, inputs.op(&s, heads)).unwrap();
    let refused = |x: Ssd<'_>| ssd::forward(&dev, x).is_err();
    assert!(refused(inputs.op(&s[..0], heads)), "rows without a segment");
    assert!(refused(inputs.op(&s, Heads { groups: 2, state_dim: 2, count: 3, head_dim: 2 })));
    assert!(refused(Ssd { d: &inputs.0[1], ..inputs.op(&s, heads) }), "a D for each token");
}
