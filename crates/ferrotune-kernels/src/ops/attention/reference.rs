//! Whole rows of scores in f64, one query at a time.

use super::{Attention, Heads, Outputs, Segment, Sinks, base, runs, within};
use crate::tensor::Tensor;

/// Rows of the keys that query `i` of segment `s` sees.
fn visible(segments: &[Segment], s: usize, i: usize, heads: Heads) -> Vec<usize> {
    let own = &segments[s];
    let positions = heads.visible(base(segments, s) + own.k_len - own.q_len + i);
    let rows = runs(segments, s).flat_map(|run| {
        let Segment { k_start, k_len, .. } = segments[run.segment];
        within(&positions, run.base, k_len).map(move |j| k_start + j)
    });
    rows.collect()
}

/// Probabilities of one query over the keys it sees, the slopes of their scores (1 without a cap), and the
/// log-sum-exp.
fn probabilities(
    q: &[f32],
    k: &[f32],
    width: usize,
    heads: Heads,
    keys: &[usize],
) -> (Vec<f64>, Vec<f64>, f64) {
    let (scores, slopes): (Vec<f64>, Vec<f64>) = keys
        .iter()
        .map(|j| {
            let k = &k[j * width..][..heads.dim];
            let s = heads.scale as f64 * q.iter().zip(k).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
            match heads.cap.map(f64::from) {
                Some(cap) => (cap * (s / cap).tanh(), 1.0 - (s / cap).tanh().powi(2)),
                None => (s, 1.0),
            }
        })
        .unzip();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    (scores.iter().map(|s| (s - max).exp() / sum).collect(), slopes, max + sum.ln())
}

pub(super) fn forward(x: Attention<'_>, o: &mut Tensor, lse: &mut Tensor) {
    let Attention { q, k, v, segments, heads } = x;
    let (d, group, rows) = (heads.dim, heads.q / heads.kv, q.rows());
    let (qw, kw) = (q.cols(), k.cols());
    let (q, k, v) = (q.to_vec(), k.to_vec(), v.to_vec());
    for (index, s) in segments.iter().enumerate() {
        for h in 0..heads.q {
            let at = h / group * d;
            for i in 0..s.q_len {
                let row = s.q_start + i;
                let keys = visible(segments, index, i, heads);
                let (p, _, l) = probabilities(&q[row * qw + h * d..][..d], &k[at..], kw, heads, &keys);
                lse.host_f32_mut()[h * rows + row] = l as f32;
                let out = &mut o.host_f32_mut()[row * qw + h * d..][..d];
                for (c, out) in out.iter_mut().enumerate() {
                    let sum: f64 = keys.iter().zip(&p).map(|(j, p)| p * v[j * kw + at + c] as f64).sum();
                    *out = sum as f32;
                }
            }
        }
    }
}

/// With `P` the probabilities, of which a sink may have a share: `dV = Pt dO`, `dP = dO Vt`, `dS = P (dP - rowsum(P dP))`, `dQ = s dS K`, `dK = s dSt Q`.
pub(super) fn backward(x: Attention<'_>, outputs: Outputs<'_>, sinks: Sinks<'_>) {
    let (Attention { q, k, v, segments, heads }, Sinks { dq, dk, dv }) = (x, sinks);
    let (lse, rows) = (outputs.lse.host_f32(), q.rows());
    let (d, group) = (heads.dim, heads.q / heads.kv);
    let (qw, kw) = (q.cols(), k.cols());
    let (q, k, v, d_o) = (q.to_vec(), k.to_vec(), v.to_vec(), outputs.d_o.host_f32());
    for (index, s) in segments.iter().enumerate() {
        for h in 0..heads.q {
            let at = h / group * d;
            for i in 0..s.q_len {
                let row = s.q_start + i;
                let keys = visible(segments, index, i, heads);
                let (p, slopes, own) = probabilities(&q[row * qw + h * d..][..d], &k[at..], kw, heads, &keys);
                let share = (own - lse[h * rows + row] as f64).exp();
                let p: Vec<f64> = p.into_iter().map(|p| p * share).collect();
                let g = &d_o[row * qw + h * d..][..d];
                let dp: Vec<f64> = keys
                    .iter()
                    .map(|j| (0..d).map(|c| g[c] as f64 * v[j * kw + at + c] as f64).sum())
                    .collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for (((j, p), dp), slope) in keys.iter().zip(&p).zip(&dp).zip(&slopes) {
                    let ds = p * (dp - mean) * slope * heads.scale as f64;
                    let key = j * kw + at;
                    for c in 0..d {
                        let query = row * qw + h * d + c;
                        dv.host_f32_mut()[key + c] += (p * g[c] as f64) as f32;
                        dq.host_f32_mut()[query] += (ds * k[key + c] as f64) as f32;
                        dk.host_f32_mut()[key + c] += (ds * q[query] as f64) as f32;
                    }
                }
            }
        }
    }
}
