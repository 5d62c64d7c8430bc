//! Blocks of channels, vectorised over them; the forward also split over rows.

use super::{Around, Conv, Grads, MOST_TAPS, States, rows_before};
use crate::cpu::math::sigmoid;
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, Isa, SharedMut, per_isa};
use crate::tensor::Tensor;

/// Channels of a task.
const CHANNELS: usize = 128;

/// Rows of a task of the forward.
const ROWS: usize = 128;

type Block = [f32; CHANNELS];

per_isa! {
    fn multiply(y: &mut [f32], by: &[f32]) {
        for (y, by) in y.iter_mut().zip(by) {
            *y *= by;
        }
    }
}

per_isa! {
    fn add_product(sum: &mut [f32], x: &[f32], y: &[f32]) {
        for ((sum, x), y) in sum.iter_mut().zip(x).zip(y) {
            *sum += x * y;
        }
    }
}

per_isa! {
    fn add(sum: &mut [f32], x: &[f32]) {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }
}

per_isa! {
    fn silu(z: &mut [f32]) {
        for z in z {
            *z *= sigmoid(*z);
        }
    }
}

per_isa! {
    /// `dz = dy silu'(z)` in the place of `z`.
    fn silu_slope(z: &mut [f32], dy: &[f32]) {
        for (z, dy) in z.iter_mut().zip(dy) {
            let s = sigmoid(*z);
            *z = dy * s * (1.0 + *z * (1.0 - s));
        }
    }
}

/// What tasks read: rows of the input, and the channels from `first` on of the weights.
struct Part<'a> {
    isa: Isa,
    x: Mat<'a>,
    around: Around,
    channels: usize,
    first: usize,
    /// Channels of this part.
    width: usize,
    /// The taps' weights, that of the token itself first.
    weights: [Block; MOST_TAPS],
    bias: Block,
}

impl<'a> Part<'a> {
    fn new(isa: Isa, conv: &Conv<'a>, block: usize) -> Self {
        let (channels, taps) = (conv.channels(), conv.taps());
        let first = block * CHANNELS;
        let width = CHANNELS.min(channels - first);
        let (mut weights, mut bias) = ([[0.0; CHANNELS]; MOST_TAPS], [0.0; CHANNELS]);
        for c in 0..width {
            let of = &conv.weight.host_f32()[(first + c) * taps..][..taps];
            of.iter().rev().enumerate().for_each(|(back, w)| weights[back][c] = *w);
        }
        if let Some(b) = conv.bias {
            bias[..width].copy_from_slice(&b.host_f32()[first..first + width]);
        }
        Part { isa, x: Mat::from(conv.x), around: conv.around, channels, first, width, weights, bias }
    }

    /// The channels of a part of a row.
    fn read(&self, row: usize, part: usize, out: &mut Block) {
        self.x.read(self.isa, row, part * self.channels + self.first, &mut out[..self.width]);
    }

    fn u(&self, row: usize, out: &mut [f32]) {
        self.x.read(self.isa, row, self.first, &mut out[..self.width]);
        if self.around == Around::Gates {
            let mut x = [0.0; CHANNELS];
            self.read(row, 2, &mut x);
            multiply(self.isa, &mut out[..self.width], &x[..self.width]);
        }
    }

    /// `z` of the rows that the taps meet, the token's own first.
    fn z<'u>(&self, met: impl Iterator<Item = &'u [f32]>) -> Block {
        let mut z = self.bias;
        for (u, w) in met.zip(&self.weights) {
            add_product(self.isa, &mut z[..self.width], &u[..self.width], &w[..self.width]);
        }
        z
    }
}

pub(super) fn forward(cpu: &Cpu, conv: Conv<'_>, states: Option<States<'_>>, y: &mut Tensor) {
    let (isa, channels, kept) = (cpu.isa(), conv.channels(), conv.taps() - 1);
    let before = conv.before();
    let blocks = channels.div_ceil(CHANNELS);
    // Runs of rows that lie behind each other in one segment.
    let run = |(i, s): (usize, &super::Segment)| {
        let rows = s.queries();
        rows.clone().step_by(ROWS).map(move |from| (i, from..(from + ROWS).min(rows.end)))
    };
    let runs: Vec<_> = conv.segments.iter().enumerate().flat_map(run).collect();
    let y = Out::from(y);
    let past = states.as_ref().map(|states| (states.rows.host_f32(), states.sequences));
    cpu.threads().run_ranges(runs.len() * blocks, 1, |tasks| {
        let mut buffer = cpu.pool().take((ROWS + kept) * CHANNELS);
        let u = &mut buffer.f32_mut()[..(ROWS + kept) * CHANNELS];
        for task in tasks {
            let part = Part::new(isa, &conv, task % blocks);
            let (segment, rows) = &runs[task / blocks];
            let mut earlier = [0; MOST_TAPS];
            let n = rows_before(&before, rows.start, &mut earlier[..kept]);
            for back in 0..kept {
                let u = &mut u[(kept - 1 - back) * CHANNELS..][..CHANNELS];
                match (back < n, past) {
                    (true, _) => part.u(earlier[back], u),
                    (false, Some((states, sequences))) => {
                        let row = (sequences[*segment] + 1) * kept - 1 - (back - n);
                        u[..part.width].copy_from_slice(&states[row * channels + part.first..][..part.width]);
                    }
                    (false, None) => u.fill(0.0),
                }
            }
            for (i, row) in rows.clone().enumerate() {
                part.u(row, &mut u[(kept + i) * CHANNELS..][..CHANNELS]);
                let met = u[i * CHANNELS..(kept + i + 1) * CHANNELS].chunks_exact(CHANNELS).rev();
                let mut z = part.z(met);
                let mut by = [0.0; CHANNELS];
                match conv.around {
                    Around::Silu => silu(isa, &mut z[..part.width]),
                    Around::Gates => {
                        part.read(row, 1, &mut by);
                        multiply(isa, &mut z[..part.width], &by[..part.width]);
                    }
                }
                let fill = |out: &mut [f32]| out.copy_from_slice(&z[..part.width]);
                // SAFETY: a task has these rows of these channels for itself.
                unsafe { y.write(isa, row * channels + part.first, part.width, &mut by, fill) };
            }
        }
    });
    if let Some(states) = states {
        keep(isa, conv, states);
    }
}

/// Leaves `u` of the last rows of each segment in the states.
fn keep(isa: Isa, conv: Conv<'_>, states: States<'_>) {
    let (channels, kept) = (conv.channels(), conv.taps() - 1);
    for (s, sequence) in conv.segments.iter().zip(states.sequences) {
        let of = &mut states.rows.host_f32_mut()[sequence * kept * channels..][..kept * channels];
        let new = kept.min(s.q_len);
        of.copy_within(new * channels.., 0);
        for (block, first) in (0..channels).step_by(CHANNELS).enumerate() {
            let part = Part::new(isa, &conv, block);
            for back in 0..new {
                let out = &mut of[(kept - 1 - back) * channels + first..][..part.width];
                part.u(s.queries().end - 1 - back, out);
            }
        }
    }
}

pub(super) fn backward(cpu: &Cpu, conv: Conv<'_>, dy: &[f32], grads: Grads<'_>, dx: &mut Tensor) {
    let (isa, rows, channels, taps) = (cpu.isa(), conv.x.rows(), conv.channels(), conv.taps());
    let (before, width_in) = (conv.before(), conv.x.cols());
    let dx = Out::from(dx);
    let [dw_all, db_all] =
        [grads.weight, grads.bias].map(|sum| sum.map(|sum| SharedMut::new(sum.host_f32_mut())));
    // A task goes through all rows of its channels: what rows give to those before them, it adds in their order.
    cpu.threads().run(channels.div_ceil(CHANNELS), |block| {
        let part = Part::new(isa, &conv, block);
        let width = part.width;
        let mut buffer = cpu.pool().take(2 * rows * CHANNELS);
        let (u, du) = buffer.f32_mut()[..2 * rows * CHANNELS].split_at_mut(rows * CHANNELS);
        let (u, du) = (u.as_chunks_mut::<CHANNELS>().0, du.as_chunks_mut::<CHANNELS>().0);
        u.iter_mut().enumerate().for_each(|(row, u)| part.u(row, u));
        du.iter_mut().for_each(|du| du.fill(0.0));
        let (mut dw, mut db) = ([[0.0; CHANNELS]; MOST_TAPS], [0.0; CHANNELS]);
        let mut spare = [0.0; CHANNELS];
        for row in 0..rows {
            let mut met = [row; MOST_TAPS];
            let n = 1 + rows_before(&before, row, &mut met[1..taps]);
            let met = &met[..n];
            let mut z = part.z(met.iter().map(|row| &u[*row][..]));
            let dy = &dy[row * channels + part.first..][..width];
            match conv.around {
                Around::Silu => silu_slope(isa, &mut z[..width], dy),
                Around::Gates => {
                    multiply(isa, &mut z[..width], dy);
                    let fill = |out: &mut [f32]| out.copy_from_slice(&z[..width]);
                    let at = row * width_in + channels + part.first;
                    // SAFETY: a task has these channels for itself.
                    unsafe { dx.write(isa, at, width, &mut spare, fill) };
                    part.read(row, 1, &mut z);
                    multiply(isa, &mut z[..width], dy);
                }
            }
            let dz = &z[..width];
            add(isa, &mut db[..width], dz);
            for ((row, w), dw) in met.iter().zip(&part.weights).zip(&mut dw) {
                add_product(isa, &mut du[*row][..width], dz, &w[..width]);
                add_product(isa, &mut dw[..width], dz, &u[*row][..width]);
            }
        }
        for (row, du) in du.iter_mut().enumerate() {
            let mut write = |of: usize, values: &[f32]| {
                let fill = |out: &mut [f32]| out.copy_from_slice(values);
                let at = row * width_in + of * channels + part.first;
                // SAFETY: a task has these channels for itself.
                unsafe { dx.write(isa, at, width, &mut spare, fill) };
            };
            match conv.around {
                Around::Silu => write(0, &du[..width]),
                Around::Gates => {
                    for (to, by) in [(0, 2), (2, 0)] {
                        let mut values = [0.0; CHANNELS];
                        part.read(row, by, &mut values);
                        multiply(isa, &mut values[..width], &du[..width]);
                        write(to, &values[..width]);
                    }
                }
            }
        }
        if let Some(all) = &dw_all {
            // SAFETY: a task has these channels for itself.
            let all = unsafe { all.slice(part.first * taps..(part.first + width) * taps) };
            for (c, of) in all.chunks_exact_mut(taps).enumerate() {
                of.iter_mut().rev().zip(&dw).for_each(|(sum, dw)| *sum += dw[c]);
            }
        }
        if let Some(all) = &db_all {
            // SAFETY: as above.
            add(isa, unsafe { all.slice(part.first..part.first + width) }, &db[..width]);
        }
    });
}
