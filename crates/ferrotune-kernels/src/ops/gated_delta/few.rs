//! The forward of up to four tokens of each cached sequence, as in decoding: token by token, with one pass over the state
//! from memory.

use super::{Cached, GatedDelta, Rule};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, per_isa};
use crate::ops::segments::Segment;
use crate::tensor::Tensor;

/// Most tokens of a segment.
const FEW: usize = 4;

/// Columns of the state that are taken past the tokens together: they stay in the first cache meanwhile.
const STRIP: usize = 64;

/// Whether all segments have few tokens.
pub(super) fn suits(segments: &[Segment]) -> bool {
    segments.iter().all(|s| s.q_len <= FEW)
}

pub(super) fn forward(cpu: &Cpu, x: GatedDelta<'_>, cached: Cached<'_>, o: &mut Tensor) {
    let (heads, isa) = (x.heads, cpu.isa());
    let (dk, dv, size) = (heads.key_dim, heads.value_dim, heads.state());
    let Cached { states, sequences } = cached;
    let (states, o) = (SharedMut::new(states.host_f32_mut()), SharedMut::new(o.host_f32_mut()));
    let buffer = || cpu.pool().take(FEW * (2 * dk + dv));
    cpu.threads().run_with(x.segments.len() * heads.v, buffer, |buffer, task| {
        let (s, h) = (task / heads.v, task % heads.v);
        let (rows, g) = (x.segments[s].queries(), h / heads.group());
        let (keys, values) = buffer.f32_mut().split_at_mut(FEW * 2 * dk);
        for (row, (key, value)) in
            rows.clone().zip(keys.chunks_exact_mut(2 * dk).zip(values.chunks_exact_mut(dv)))
        {
            let (q, k) = key.split_at_mut(dk);
            Mat::head(x.q, g, dk).read(isa, row, 0, q);
            q.iter_mut().for_each(|q| *q *= heads.scale);
            Mat::head(x.k, g, dk).read(isa, row, 0, k);
            Mat::head(x.v, h, dv).read(isa, row, 0, value);
        }
        let at = (sequences[s] * heads.v + h) * size;
        // SAFETY: no other segment has this sequence, and no other task this head of it.
        let state = unsafe { states.slice(at..at + size) };
        for first in (0..dv).step_by(STRIP) {
            let n = (dv - first).min(STRIP);
            for (i, row) in rows.clone().enumerate() {
                let (q, k) = keys[i * 2 * dk..][..2 * dk].split_at(dk);
                let at = row * heads.v + h;
                let decay = x.g.host_f32()[at].exp();
                let asked = if x.rule == Rule::Delta { decay } else { 0.0 };
                let gates = (decay, asked, x.beta.host_f32()[at]);
                // SAFETY: the task owns these columns of the row.
                let o = unsafe { o.slice(at * dv + first..at * dv + first + n) };
                let value = &values[i * dv + first..][..n];
                step(isa, &mut state[first..], dv, (q, k), gates, value, o);
            }
        }
    });
}

per_isa! {
    /// Takes columns of a state, its rows `stride` apart, past one token.
    fn step(
        state: &mut [f32],
        stride: usize,
        keys: (&[f32], &[f32]),
        gates: (f32, f32, f32),
        v: &[f32],
        o: &mut [f32],
    ) {
        let ((q, k), (decay, asked, beta), n) = (keys, gates, v.len());
        let (mut held, mut seen, mut qk) = ([0.0f32; STRIP], [0.0f32; STRIP], 0.0f32);
        for ((row, q), k) in state.chunks(stride).zip(q).zip(k) {
            match row.first_chunk::<STRIP>().filter(|_| n == STRIP) {
                // Of a known length, so that the sums stay in registers.
                Some(row) => {
                    for l in 0..STRIP {
                        held[l] += k * row[l];
                        seen[l] += q * row[l];
                    }
                }
                None => {
                    for (l, s) in row[..n].iter().enumerate() {
                        held[l] += k * s;
                        seen[l] += q * s;
                    }
                }
            }
            qk += q * k;
        }
        // o = q S' = decay q S + (q . k) u: the state behind the token need not be read for it.
        let mut u = [0.0f32; STRIP];
        for l in 0..n {
            u[l] = beta * (v[l] - asked * held[l]);
            o[l] = decay * seen[l] + qk * u[l];
        }
        for (row, k) in state.chunks_mut(stride).zip(k) {
            for (s, u) in row[..n].iter_mut().zip(&u) {
                *s = decay * *s + k * u;
            }
        }
    }
}
