//! Plain loops in f64.

use super::{Around, Conv, Grads, MOST_TAPS, States, rows_before};
use crate::ops::scalar::sigmoid;
use crate::tensor::Tensor;

/// The rows of a convolution as the formulas name them.
struct Rows<'a> {
    conv: Conv<'a>,
    x: Vec<f32>,
    before: Vec<Option<u32>>,
}

impl Rows<'_> {
    /// Value of a part of a row.
    fn part(&self, row: usize, part: usize, c: usize) -> f64 {
        self.x[row * self.conv.x.cols() + part * self.conv.channels() + c] as f64
    }

    fn u(&self, row: usize, c: usize) -> f64 {
        match self.conv.around {
            Around::Silu => self.part(row, 0, c),
            Around::Gates => self.part(row, 0, c) * self.part(row, 2, c),
        }
    }

    /// The rows that the taps of `row` meet, itself first.
    fn met(&self, row: usize) -> Vec<usize> {
        let mut rows = [0; MOST_TAPS];
        let n = rows_before(&self.before, row, &mut rows[..self.conv.taps() - 1]);
        std::iter::once(row).chain(rows[..n].iter().copied()).collect()
    }

    /// `z` of a row; `past` gives `u` of the tokens before the first row, the nearest first.
    fn z(&self, row: usize, c: usize, past: impl Fn(usize) -> f64) -> f64 {
        let k = self.conv.taps();
        let w = |back: usize| self.conv.weight.host_f32()[c * k + k - 1 - back] as f64;
        let met = self.met(row);
        let own: f64 = met.iter().enumerate().map(|(back, row)| w(back) * self.u(*row, c)).sum();
        let earlier: f64 = (met.len()..k).map(|back| w(back) * past(back - met.len())).sum();
        own + earlier + self.conv.bias.map_or(0.0, |b| b.host_f32()[c] as f64)
    }
}

fn rows(conv: Conv<'_>) -> Rows<'_> {
    Rows { conv, x: conv.x.to_vec(), before: conv.before() }
}

pub(super) fn forward(conv: Conv<'_>, mut states: Option<States<'_>>, y: &mut Tensor) {
    let (rows, channels, kept) = (rows(conv), conv.channels(), conv.taps() - 1);
    let mut out = Vec::with_capacity(y.len());
    for (i, s) in conv.segments.iter().enumerate() {
        let past = |back: usize, c: usize| {
            states.as_ref().map_or(0.0, |states| {
                let row = (states.sequences[i] + 1) * kept - 1 - back;
                states.rows.host_f32()[row * channels + c] as f64
            })
        };
        for row in s.queries() {
            out.extend((0..channels).map(|c| {
                let z = rows.z(row, c, |back| past(back, c));
                match conv.around {
                    Around::Silu => (z * sigmoid(z)) as f32,
                    Around::Gates => (z * rows.part(row, 1, c)) as f32,
                }
            }));
        }
        if let Some(states) = &mut states {
            let of =
                &mut states.rows.host_f32_mut()[states.sequences[i] * kept * channels..][..kept * channels];
            let new: Vec<f32> = s
                .queries()
                .flat_map(|row| (0..channels).map(move |c| (row, c)))
                .map(|(row, c)| rows.u(row, c) as f32)
                .collect();
            let all = [of.to_vec(), new].concat();
            of.copy_from_slice(&all[all.len() - kept * channels..]);
        }
    }
    y.set(&out);
}

pub(super) fn backward(conv: Conv<'_>, dy: &[f32], grads: Grads<'_>, dx: &mut Tensor) {
    let (rows, channels, k) = (rows(conv), conv.channels(), conv.taps());
    let mut out = vec![0.0; dx.len()];
    let (mut dw, mut db) = (vec![0.0f64; channels * k], vec![0.0f64; channels]);
    let mut du = vec![0.0f64; conv.x.rows() * channels];
    for row in 0..conv.x.rows() {
        for c in 0..channels {
            let (z, dy) = (rows.z(row, c, |_| 0.0), dy[row * channels + c] as f64);
            let dz = match conv.around {
                Around::Silu => dy * sigmoid(z) * (1.0 + z * (1.0 - sigmoid(z))),
                Around::Gates => {
                    out[row * 3 * channels + channels + c] = (dy * z) as f32;
                    dy * rows.part(row, 1, c)
                }
            };
            db[c] += dz;
            for (back, met) in rows.met(row).into_iter().enumerate() {
                let at = c * k + k - 1 - back;
                du[met * channels + c] += dz * conv.weight.host_f32()[at] as f64;
                dw[at] += dz * rows.u(met, c);
            }
        }
    }
    for row in 0..conv.x.rows() {
        for c in 0..channels {
            let du = du[row * channels + c];
            match conv.around {
                Around::Silu => out[row * channels + c] = du as f32,
                Around::Gates => {
                    out[row * 3 * channels + c] = (du * rows.part(row, 2, c)) as f32;
                    out[(row * 3 + 2) * channels + c] = (du * rows.part(row, 0, c)) as f32;
                }
            }
        }
    }
    dx.set(&out);
    for (sum, new) in [(grads.weight, dw), (grads.bias, db)] {
        if let Some(sum) = sum {
            sum.host_f32_mut().iter_mut().zip(new).for_each(|(s, v)| *s += v as f32);
        }
    }
}
