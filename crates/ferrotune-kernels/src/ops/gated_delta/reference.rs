//! Token by token in f64.

use super::{Cached, GatedDelta, Gradients, Rule};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// The inputs of one token for one value head.
struct Token {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    decay: f64,
    beta: f64,
    rule: Rule,
}

impl Token {
    fn of(x: GatedDelta<'_>, row: usize, h: usize) -> Self {
        let heads = x.heads;
        let key = h / heads.group() * heads.key_dim;
        Token {
            q: part(x.q, row, key, heads.key_dim).iter().map(|q| q * heads.scale as f64).collect(),
            k: part(x.k, row, key, heads.key_dim),
            v: part(x.v, row, h * heads.value_dim, heads.value_dim),
            decay: (x.g.host_f32()[row * heads.v + h] as f64).exp(),
            beta: x.beta.host_f32()[row * heads.v + h] as f64,
            rule: x.rule,
        }
    }

    /// What the decayed state lacks, or the value: `p`.
    fn lack(&self, state: &[f64]) -> Vec<f64> {
        if self.rule == Rule::Value {
            return self.v.clone();
        }
        self.v.iter().zip(read(state, &self.k, self.v.len())).map(|(v, held)| v - held).collect()
    }

    /// Takes the state past the token.
    fn step(&self, state: &mut [f64]) {
        state.iter_mut().for_each(|s| *s *= self.decay);
        let p = self.lack(state);
        outer(state, &self.k, &p, self.beta);
    }
}

/// `n` values of a row, from column `from` on.
fn part(t: &Tensor, row: usize, from: usize, n: usize) -> Vec<f64> {
    let at = row * t.cols() + from;
    match t.dtype() {
        DType::F32 => t.host_f32()[at..at + n].iter().map(|v| *v as f64).collect(),
        _ => t.host_bf16()[at..at + n].iter().map(|v| v.to_f64()).collect(),
    }
}

/// `St a`.
fn read(state: &[f64], a: &[f64], width: usize) -> Vec<f64> {
    (0..width).map(|c| a.iter().zip(state.chunks(width)).map(|(a, row)| a * row[c]).sum()).collect()
}

/// `S b`.
fn turned(state: &[f64], b: &[f64]) -> Vec<f64> {
    state.chunks(b.len()).map(|row| dot(row, b)).collect()
}

/// `S += by a bt`.
fn outer(state: &mut [f64], a: &[f64], b: &[f64], by: f64) {
    for (row, a) in state.chunks_mut(b.len()).zip(a) {
        row.iter_mut().zip(b).for_each(|(s, b)| *s += by * a * b);
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn forward(x: GatedDelta<'_>, mut cached: Option<Cached<'_>>, o: &mut Tensor) {
    let (heads, size) = (x.heads, x.heads.state());
    for h in 0..heads.v {
        let mut ends: Vec<Vec<f64>> = Vec::new();
        for (i, s) in x.segments.iter().enumerate() {
            let place = cached.as_ref().map(|c| c.sequences[i] * c.states.cols() + h * size);
            let mut state = match (&cached, place, s.parent) {
                (Some(c), Some(at), _) => {
                    c.states.host_f32()[at..at + size].iter().map(|v| *v as f64).collect()
                }
                (_, _, Some(parent)) => ends[parent].clone(),
                _ => vec![0.0; size],
            };
            for row in s.queries() {
                let token = Token::of(x, row, h);
                token.step(&mut state);
                let out = &mut o.host_f32_mut()[row * heads.v * heads.value_dim + h * heads.value_dim..];
                for (o, value) in out.iter_mut().zip(read(&state, &token.q, heads.value_dim)) {
                    *o = value as f32;
                }
            }
            if let (Some(c), Some(at)) = (&mut cached, place) {
                c.states.host_f32_mut()[at..at + size]
                    .iter_mut()
                    .zip(&state)
                    .for_each(|(to, s)| *to = *s as f32);
            }
            ends.push(state);
        }
    }
}

/// Each line of [`forward`] turned round: `dS` is the gradient of the state behind the token, then before it.
pub(super) fn backward(x: GatedDelta<'_>, d_o: &Tensor, gradients: &mut Gradients) {
    let (heads, size) = (x.heads, x.heads.state());
    let (key_dim, value_dim) = (heads.key_dim, heads.value_dim);
    for t in [&mut gradients.dq, &mut gradients.dk] {
        t.host_f32_mut().fill(0.0);
    }
    for h in 0..heads.v {
        // The state before each token, and those at the segments' ends.
        let (mut before, mut ends) = (Vec::new(), Vec::<Vec<f64>>::new());
        for s in x.segments {
            let mut state = s.parent.map_or(vec![0.0; size], |parent| ends[parent].clone());
            for row in s.queries() {
                before.push(state.clone());
                Token::of(x, row, h).step(&mut state);
            }
            ends.push(state);
        }
        let mut d_ends = vec![vec![0.0; size]; x.segments.len()];
        for (i, s) in x.segments.iter().enumerate().rev() {
            let mut ds = std::mem::take(&mut d_ends[i]);
            for row in s.queries().rev() {
                let token = Token::of(x, row, h);
                let at = row * heads.v * value_dim + h * value_dim;
                let d_o = part(d_o, row, h * value_dim, value_dim);
                let decayed: Vec<f64> = before[row].iter().map(|s| s * token.decay).collect();
                let p = token.lack(&decayed);
                let mut state = decayed.clone();
                outer(&mut state, &token.k, &p, token.beta);

                outer(&mut ds, &token.q, &d_o, 1.0);
                let dq = turned(&state, &d_o);
                let du = read(&ds, &token.k, value_dim);
                let dp: Vec<f64> = du.iter().map(|du| du * token.beta).collect();
                let by_u = turned(&ds, &p);
                let mut by_p = vec![0.0; key_dim];
                if x.rule == Rule::Delta {
                    by_p = turned(&decayed, &dp);
                    outer(&mut ds, &token.k, &dp, -1.0);
                }

                gradients.dbeta.host_f32_mut()[row * heads.v + h] = dot(&du, &p) as f32;
                gradients.dg.host_f32_mut()[row * heads.v + h] = dot(&ds, &decayed) as f32;
                for (to, dp) in gradients.dv.host_f32_mut()[at..].iter_mut().zip(&dp) {
                    *to = *dp as f32;
                }
                let at = row * heads.k * key_dim + h / heads.group() * key_dim;
                for c in 0..key_dim {
                    gradients.dq.host_f32_mut()[at + c] += (dq[c] * heads.scale as f64) as f32;
                    gradients.dk.host_f32_mut()[at + c] += (token.beta * by_u[c] - by_p[c]) as f32;
                }
                ds.iter_mut().for_each(|ds| *ds *= token.decay);
            }
            if let Some(parent) = s.parent {
                d_ends[parent].iter_mut().zip(&ds).for_each(|(sum, ds)| *sum += ds);
            }
        }
    }
}
