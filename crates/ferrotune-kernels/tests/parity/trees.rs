//! Attention of segments that go on from others: what a tree of common beginnings gives is what its rows give.

use ferrotune_kernels::ops::attention::{self, Attention, Heads, Outputs, Segment};
use ferrotune_kernels::ops::elementwise;
use ferrotune_kernels::{Device, Precision, Tensor};

use super::{assert_close, cpus, finite_difference, inner, random};

/// Lengths and parents of segments.
pub(super) type Shape = &'static [(usize, Option<usize>)];

pub(super) const SMALL: Shape =
    &[(4, None), (3, Some(0)), (2, Some(1)), (5, Some(1)), (6, Some(0)), (7, None)];
/// Lengths around a tile's, a tree of one segment between two others.
pub(super) const BORDERS: Shape = &[
    (130, None),
    (64, Some(0)),
    (1, Some(1)),
    (63, Some(1)),
    (65, Some(0)),
    (40, None),
    (64, None),
    (70, Some(6)),
    (9, Some(7)),
    (128, Some(6)),
];

pub(super) fn segments(shape: Shape) -> Vec<Segment> {
    let mut start = 0;
    let segment = |(len, parent): &(usize, Option<usize>)| {
        start += len;
        Segment::own(start - len, *len).after(*parent)
    };
    shape.iter().map(segment).collect()
}

/// The tokens of segment `i` and of those that it goes on from.
pub(super) fn path(s: &[Segment], i: usize) -> Vec<usize> {
    let before = s[i].parent.map_or(Vec::new(), |parent| path(s, parent));
    before.into_iter().chain(s[i].queries()).collect()
}

/// Some rows of `x`.
pub(super) fn take(dev: &Device, x: &Tensor, rows: &[usize]) -> Tensor {
    let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
    elementwise::gather(dev, x, &rows).unwrap()
}

/// Q, K, V and the gradient of the output.
struct Inputs([Tensor; 4]);

impl Inputs {
    fn new(dev: &Device, rows: usize, heads: Heads) -> Self {
        let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
        Inputs([(q, "q"), (kv, "k"), (kv, "v"), (q, "do")].map(|(width, n)| random(dev, rows, width, n)))
    }

    /// `O`, log-sum-exp, dQ, dK, dV.
    fn run(&self, dev: &Device, precision: Precision, s: &[Segment], heads: Heads) -> [Vec<f32>; 5] {
        let [q, k, v, d_o] = &self.0;
        let (o, lse) =
            attention::forward(dev.ctx(precision), Attention { q, k, v, segments: s, heads }).unwrap();
        let (dq, dk, dv) = attention::backward(
            dev.ctx(precision),
            Attention { q, k, v, segments: s, heads },
            Outputs { o: &o, lse: &lse, d_o },
        )
        .unwrap();
        [o, lse, dq, dk, dv].map(|t| t.to_vec())
    }
}

/// The same by a row for each segment, from its tree's root down to it, each row for itself.
///
/// Only a segment's own row has an output gradient for it, and a token's gradient is the sum over the rows that it is in.
fn unfolded(dev: &Device, inputs: &Inputs, s: &[Segment], heads: Heads) -> [Vec<f32>; 5] {
    let rows: usize = s.iter().map(|s| s.q_len).sum();
    let widths = [heads.q * heads.dim, heads.q, heads.q * heads.dim, heads.kv * heads.dim];
    let mut all = [widths[0], widths[1], widths[2], widths[3], widths[3]].map(|w| vec![0.0; rows * w]);
    for (i, own) in s.iter().enumerate() {
        let tokens = path(s, i);
        let before = tokens.len() - own.q_len;
        let mut row = Inputs(inputs.0.each_ref().map(|t| take(dev, t, &tokens)));
        row.0[3].host_f32_mut()[..before * widths[0]].fill(0.0);
        let found = row.run(dev, Precision::F32, &[Segment::own(0, tokens.len())], heads);
        for (j, token) in tokens.iter().enumerate() {
            for part in [0, 2, 3, 4] {
                let width = found[part].len() / tokens.len();
                for c in 0..width {
                    let (sum, value) = (&mut all[part][token * width + c], found[part][j * width + c]);
                    match part {
                        0 => *sum = if j < before { *sum } else { value },
                        _ => *sum += value,
                    }
                }
            }
            for h in (0..heads.q).filter(|_| j >= before) {
                all[1][h * rows + token] = found[1][h * tokens.len() + j];
            }
        }
    }
    all
}

#[test]
fn a_tree_gives_what_its_rows_give() {
    let dev = Device::reference();
    for (q, kv, dim, window, cap, shape) in [
        (2, 2, 16, None, None, SMALL),
        (4, 2, 16, Some(4), Some(1.5), SMALL),
        (4, 2, 64, None, None, BORDERS),
        (6, 2, 16, Some(68), None, BORDERS),
        (2, 1, 80, Some(9), Some(3.0), BORDERS),
        (3, 3, 16, Some(200), Some(2.0), BORDERS),
    ] {
        let heads = Heads { q, kv, dim, scale: 1.0 / (dim as f32).sqrt(), window, cap };
        let s = segments(shape);
        let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads);
        let expected = unfolded(&dev, &inputs, &s, heads);
        let names = ["output", "log-sum-exp", "dq", "dk", "dv"];
        for (i, found) in inputs.run(&dev, Precision::F32, &s, heads).iter().enumerate() {
            assert_close(
                &format!("{} of the plain loops, window {window:?}", names[i]),
                found,
                &expected[i],
                3e-6,
            );
        }
        for precision in [Precision::F32, Precision::Bf16] {
            let limit = if precision == Precision::F32 { 5e-6 } else { 3e-2 };
            // Every instruction set with one and with three threads.
            let all: Vec<_> = cpus().iter().map(|dev| inputs.run(dev, precision, &s, heads)).collect();
            for two in all.chunks(2) {
                assert!(two[0] == two[1], "threads change bits: {precision:?}, {heads:?}");
                for (i, found) in two[0].iter().enumerate() {
                    assert_close(
                        &format!("{} {precision:?} {heads:?}", names[i]),
                        found,
                        &expected[i],
                        limit,
                    );
                }
            }
        }
    }
}

#[test]
fn gradients_of_a_tree_are_those_of_differences() {
    let dev = Device::reference();
    for (window, cap) in [(None, None), (Some(5), Some(2.0))] {
        let heads = Heads { q: 4, kv: 2, dim: 16, scale: 0.25, window, cap };
        let s = segments(SMALL);
        let inputs = Inputs::new(&dev, s.iter().map(|s| s.q_len).sum(), heads);
        let [_, _, dq, dk, dv] = inputs.run(&dev, Precision::F32, &s, heads);
        let [q, k, v, d_o] = &inputs.0;
        let loss = |q: &Tensor, k: &Tensor, v: &Tensor| {
            inner(
                &attention::forward(
                    Device::reference().ctx(Precision::F32),
                    Attention { q, k, v, segments: &s, heads },
                )
                .unwrap()
                .0,
                d_o,
            )
        };
        finite_difference("tree dq", q, &dq, |q| loss(q, k, v));
        finite_difference("tree dk", k, &dk, |k| loss(q, k, v));
        finite_difference("tree dv", v, &dv, |v| loss(q, k, v));
    }
}

#[test]
fn the_last_queries_of_a_cache_that_goes_on_from_another_see_both() {
    let dev = Device::reference();
    let heads = Heads { q: 2, kv: 1, dim: 16, scale: 0.25, window: Some(50), cap: None };
    let Inputs([q, k, v, _]) = Inputs::new(&dev, 80, heads);
    let whole = attention::forward(
        dev.ctx(Precision::F32),
        Attention { q: &q, k: &k, v: &v, segments: &[Segment::own(0, 80)], heads },
    )
    .unwrap()
    .0;
    for dev in cpus().into_iter().chain([dev]) {
        let some: Vec<f32> =
            [29, 77, 78, 79].iter().flat_map(|r| q.host_f32()[r * 32..][..32].to_vec()).collect();
        let last = dev.tensor(4, 32, &some);
        let s = [
            Segment { q_start: 0, q_len: 1, k_start: 0, k_len: 30, parent: None },
            Segment { q_start: 1, q_len: 3, k_start: 30, k_len: 50, parent: Some(0) },
        ];
        let o = attention::forward(
            dev.ctx(Precision::F32),
            Attention { q: &last, k: &k, v: &v, segments: &s, heads },
        )
        .unwrap()
        .0;
        assert_close("last of the root", &o.host_f32()[..32], &whole.host_f32()[29 * 32..][..32], 3e-6);
        assert_close("last of the child", &o.host_f32()[32..], &whole.host_f32()[77 * 32..], 3e-6);
    }
}

#[test]
fn segments_that_form_no_tree_are_refused() {
    let dev = Device::reference();
    let heads = Heads { q: 1, kv: 1, dim: 4, scale: 0.5, window: None, cap: None };
    let Inputs([q, k, v, d_o]) = Inputs::new(&dev, 9, heads);
    let run = |parents: [Option<usize>; 3]| {
        let s: Vec<Segment> = (0..3).map(|i| Segment::own(3 * i, 3).after(parents[i])).collect();
        attention::forward(dev.ctx(Precision::F32), Attention { q: &q, k: &k, v: &v, segments: &s, heads })
            .map(|_| ())
    };
    run([None, Some(0), Some(0)]).unwrap();
    for wrong in [[None, Some(1), None], [Some(0), None, None], [None, Some(2), None], [None, None, Some(0)]]
    {
        let error = run(wrong).unwrap_err().to_string();
        assert!(error.contains("attention segment"), "{wrong:?}: {error}");
    }
    // Two segments with the same keys would write to the same gradient.
    let twice = |start| Segment { q_start: start, q_len: 3, k_start: 0, k_len: 3, parent: None };
    let s = [twice(0), twice(3), twice(6)];
    let (o, lse) =
        attention::forward(dev.ctx(Precision::F32), Attention { q: &q, k: &k, v: &v, segments: &s, heads })
            .unwrap();
    let error = attention::backward(
        dev.ctx(Precision::F32),
        Attention { q: &q, k: &k, v: &v, segments: &s, heads },
        Outputs { o: &o, lse: &lse, d_o: &d_o },
    );
    assert!(error.unwrap_err().to_string().contains("no other segment"));
}
