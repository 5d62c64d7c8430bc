//! Short causal convolutions: rows, trees of common beginnings, and sequences that go on.

use ferrotune_kernels::ops::attention::Segment;
use ferrotune_kernels::ops::causal_conv::{self, Around, Conv, Grads, States};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{DType, Device, Tensor};

use super::trees::{BORDERS, SMALL, path, segments, take};
use super::{added, assert_close, cpus, finite_difference, inner, random};

const FORMS: [(Around, usize); 2] = [(Around::Silu, 1), (Around::Gates, 3)];

/// The input, the weights and the gradient of the output.
struct Inputs {
    x: Tensor,
    w: Tensor,
    b: Tensor,
    dy: Tensor,
}

impl Inputs {
    fn new(dev: &Device, rows: usize, channels: usize, taps: usize, parts: usize) -> Self {
        let [x, w, b, dy] = [
            (rows, parts * channels, "x"),
            (channels, taps, "w"),
            (1, channels, "b"),
            (rows, channels, "dy"),
        ]
        .map(|(rows, cols, name)| random(dev, rows, cols, name));
        Inputs { x, w, b, dy }
    }

    fn conv<'a>(&'a self, around: Around, segments: &'a [Segment]) -> Conv<'a> {
        Conv { x: &self.x, weight: &self.w, bias: Some(&self.b), around, segments }
    }

    /// y, dx, dw, db; the last two are added to what is there.
    fn run(&self, dev: &Device, around: Around, segments: &[Segment]) -> [Vec<f32>; 4] {
        let conv = self.conv(around, segments);
        let y = causal_conv::forward(dev, conv, None, DType::F32).unwrap();
        let (mut dw, mut db) =
            (random(dev, self.w.rows(), self.w.cols(), "dw"), random(dev, 1, self.w.rows(), "db"));
        let grads = Grads { weight: Some(&mut dw), bias: Some(&mut db) };
        let dx = causal_conv::backward(dev, conv, &self.dy, DType::F32, grads).unwrap();
        let (dw, db) = (
            added(dw.host_f32(), &random(dev, self.w.rows(), self.w.cols(), "dw")),
            added(db.host_f32(), &random(dev, 1, self.w.rows(), "db")),
        );
        [y.to_vec(), dx.to_vec(), dw, db]
    }
}

#[test]
fn convolution_agrees() {
    let dev = Device::reference();
    for (around, parts) in FORMS {
        for (shape, channels, taps) in [(SMALL, 5, 3), (SMALL, 130, 4), (BORDERS, 20, 4), (SMALL, 3, 1)] {
            let s = segments(shape);
            let rows = s.iter().map(|s| s.q_len).sum();
            let inputs = Inputs::new(&dev, rows, channels, taps, parts);
            let expected = inputs.run(&dev, around, &s);
            if channels == 5 {
                let loss = |x: &Tensor, w: &Tensor, b: &Tensor| {
                    let conv = Conv { x, weight: w, bias: Some(b), around, segments: &s };
                    inner(
                        &causal_conv::forward(&Device::reference(), conv, None, DType::F32).unwrap(),
                        &inputs.dy,
                    )
                };
                let Inputs { x, w, b, .. } = &inputs;
                finite_difference("conv dx", x, &expected[1], |x| loss(x, w, b));
                finite_difference("conv dw", w, &expected[2], |w| loss(x, w, b));
                finite_difference("conv db", b, &expected[3], |b| loss(x, w, b));
            }
            for dev in cpus() {
                for (i, found) in inputs.run(&dev, around, &s).iter().enumerate() {
                    assert_close(&format!("{around:?} {channels} {taps} {i}"), found, &expected[i], 4e-6);
                }
            }
        }
    }
}

#[test]
fn a_tree_is_its_rows_one_by_one() {
    let (channels, taps) = (20, 4);
    for dev in cpus() {
        for (around, parts) in FORMS {
            let s = segments(BORDERS);
            let rows = s.iter().map(|s| s.q_len).sum();
            let inputs = Inputs::new(&dev, rows, channels, taps, parts);
            let [y, dx, dw, _] = inputs.run(&dev, around, &s);
            let (mut dx_sum, mut dw_sum) = (vec![0.0; dx.len()], vec![0.0; dw.len()]);
            for (i, own) in s.iter().enumerate() {
                let tokens = path(&s, i);
                let before = tokens.len() - own.q_len;
                let mut row = Inputs::new(&dev, 0, channels, taps, parts);
                (row.x, row.dy) = (take(&dev, &inputs.x, &tokens), take(&dev, &inputs.dy, &tokens));
                row.dy.host_f32_mut()[..before * channels].fill(0.0);
                let found = row.run(&dev, around, &[Segment::own(0, tokens.len())]);
                assert_eq!(
                    found[0][before * channels..],
                    y[own.q_start * channels..][..own.q_len * channels]
                );
                for (at, token) in tokens.iter().enumerate() {
                    let width = parts * channels;
                    let sum = &mut dx_sum[token * width..][..width];
                    sum.iter_mut().zip(&found[1][at * width..]).for_each(|(s, v)| *s += v);
                }
                dw_sum.iter_mut().zip(&found[2]).for_each(|(s, v)| *s += v);
            }
            assert_close("dx of a tree", &dx, &dx_sum, 2e-6);
            assert_close("dw of a tree", &dw, &dw_sum, 4e-6);
        }
    }
}

#[test]
fn a_sequence_goes_on_from_its_state() {
    let (channels, taps, rows) = (20, 4, 9);
    for dev in cpus().into_iter().chain([Device::reference()]) {
        for (around, parts) in FORMS {
            let inputs = Inputs::new(&dev, rows, channels, taps, parts);
            let whole = inputs.run(&dev, around, &[Segment::own(0, rows)]);
            let mut states = dev.zeros(3 * (taps - 1), channels);
            let mut found = Vec::new();
            // Two tokens (fewer than the state holds), one, then the rest; another sequence goes beside it.
            for part in [0..2, 2..3, 3..rows] {
                let own: Vec<u32> = part.clone().chain([0]).map(|row| row as u32).collect();
                let x = elementwise::gather(&dev, &inputs.x, &own).unwrap();
                let segments = [Segment::own(0, part.len()), Segment::own(part.len(), 1)];
                let conv = Conv { x: &x, ..inputs.conv(around, &segments) };
                let states = States { rows: &mut states, sequences: &[2, 0] };
                let y = causal_conv::forward(&dev, conv, Some(states), DType::F32).unwrap();
                found.extend_from_slice(&y.host_f32()[..part.len() * channels]);
            }
            // The plain loops keep f64 within a row alone.
            let limit = if matches!(dev, Device::Reference(_)) { 1e-6 } else { 0.0 };
            assert_close(&format!("{around:?}"), &found, &whole[0], limit);
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let dev = Device::reference();
    let inputs = Inputs::new(&dev, 4, 5, 3, 1);
    let refused =
        |s: &[Segment]| causal_conv::forward(&dev, inputs.conv(Around::Silu, s), None, DType::F32).is_err();
    assert!(refused(&[Segment::own(0, 3)]), "a row without a segment");
    assert!(refused(&[Segment::own(0, 5)]), "a row that is not there");
    assert!(refused(&[Segment::own(0, 2).after(Some(1)), Segment::own(2, 2)]), "a parent that comes later");
    assert!(
        causal_conv::forward(&dev, inputs.conv(Around::Gates, &[Segment::own(0, 4)]), None, DType::F32)
            .is_err()
    );
    let mut states = dev.zeros(2, 5);
    let states = States { rows: &mut states, sequences: &[1] };
    assert!(
        causal_conv::forward(
            &dev,
            inputs.conv(Around::Silu, &[Segment::own(0, 4)]),
            Some(states),
            DType::F32
        )
        .is_err(),
        "a sequence without a state"
    );
}
