//! Initialisations that move a part of the frozen weight into the branch: PiSSA, OLoRA, LoftQ.
//!
//! They depend on the weight alone, so an adapter that began with one is loaded by doing it again, as PEFT does.

use std::collections::BTreeMap;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use ferrotune_kernels::quant::nf4::{FourBitKind, quantize};

use super::config::{Init, LoraConfig};
use super::kinds::{InitialBranch, Place, plus_product};
use super::svd::{add, dot, largest};
use crate::load::dense;
use crate::model::parts::{Base, LinearLayer};
use crate::{Error, Result};

/// Values of an NF4 block; PEFT's LoftQ leaves the scales in f32.
const BLOCK: usize = 64;

/// The starts of all branches by the number of their linear; none for an initialisation that leaves weights alone.
pub(super) fn initial_branches(
    threads: &Threads,
    config: &LoraConfig,
    branches: &[Place<'_>],
) -> Result<BTreeMap<usize, InitialBranch>> {
    if !config.init.changes_base() {
        return Ok(BTreeMap::new());
    }
    let made = threads.map(branches, |at| {
        Ok((at.linear.id, initial_branch(threads, config, at.linear, at.rank, at.scale)?))
    });
    made.into_iter().collect()
}

fn initial_branch(
    threads: &Threads,
    config: &LoraConfig,
    l: &LinearLayer,
    rank: usize,
    scale: f32,
) -> Result<InitialBranch> {
    let (n, k) = (l.rows, l.cols);
    let (weight, dtype) = match &l.base {
        Base::Frozen(w) if let Some(dtype) = w.dtype() => (w, dtype),
        other => {
            let problem =
                format!("the weight of `{}` is stored as {}, expected floats", l.name, other.storage_name());
            return Err(Error::config("init", problem).with_hint(
                "pissa, olora and loftq begin with the original weights: use a dense base that stays dense \
                 (loftq quantizes it itself)",
            ));
        }
    };
    if rank > n.min(k) {
        let problem = format!("rank {rank} is more than `{}` of {n} x {k} has", l.name);
        return Err(Error::config("rank", problem).with_hint("a smaller rank, or another init"));
    }
    let mut w = vec![0.0f32; n * k];
    weight.decode_flat(0, &mut w);
    let left = |a: &[f32], b: &[f32]| {
        let rest = minus_product(&w, a, b, rank, scale as f64);
        dense(Weight::from_f32(n, k, &rest), dtype)
    };
    match config.init {
        Init::Pissa => {
            let (u, s, v) = largest(&w, n, k, rank);
            let (a, b) = factors(&u, &s, &v, 1.0 / scale as f64);
            Ok(InitialBranch { base: left(&a, &b)?, a, b })
        }
        Init::Olora => {
            let wide: Vec<f64> = w.iter().map(|v| *v as f64).collect();
            let (q, r) = first_of_qr(&wide, n, k, rank);
            let a: Vec<f32> = r.iter().map(|v| *v as f32).collect();
            let b: Vec<f32> = (0..n * rank).map(|i| q[i % rank * n + i / rank] as f32).collect();
            Ok(InitialBranch { base: left(&a, &b)?, a, b })
        }
        Init::Loftq => {
            let mut rest = w.clone();
            let mut done = None;
            for _ in 0..config.loftq_iterations.max(1) {
                let base = quantize(threads, &Weight::from_f32(n, k, &rest), FourBitKind::Nf4, BLOCK, false)?;
                let mut lost = vec![0.0f32; n * k];
                base.decode_flat(0, &mut lost);
                lost.iter_mut().zip(&w).for_each(|(q, w)| *q = w - *q);
                let (u, s, v) = largest(&lost, n, k, rank);
                // PEFT leaves the scale out of account here.
                let (a, b) = factors(&u, &s, &v, 1.0);
                rest = minus_product(&w, &a, &b, rank, 1.0);
                done = Some(InitialBranch { a, b, base });
            }
            done.ok_or_else(|| Error::config("loftq_iterations", "found 0, expected at least 1"))
        }
        Init::Kaiming | Init::Gaussian => unreachable!("these leave the weight alone"),
    }
}

/// `A = sqrt(share S) Vt` and `B = U sqrt(share S)`, of columns of U and V.
fn factors(u: &[Vec<f64>], s: &[f64], v: &[Vec<f64>], share: f64) -> (Vec<f32>, Vec<f32>) {
    let root: Vec<f64> = s.iter().map(|s| (s * share).sqrt()).collect();
    let a = v.iter().zip(&root).flat_map(|(v, root)| v.iter().map(move |v| (v * root) as f32)).collect();
    let rows = u.first().map_or(0, Vec::len);
    let b = (0..rows).flat_map(|row| u.iter().zip(&root).map(move |(u, root)| (u[row] * root) as f32));
    (a, b.collect())
}

/// `W - s B A`, rounded once.
fn minus_product(w: &[f32], a: &[f32], b: &[f32], r: usize, scale: f64) -> Vec<f32> {
    let k = a.len() / r;
    let mut out = Vec::with_capacity(w.len());
    let mut sum = vec![0.0f64; k];
    for (row, b) in w.chunks_exact(k).zip(b.chunks_exact(r)) {
        plus_product(row, a, b, -scale, &mut sum);
        out.extend(sum.iter().map(|s| *s as f32));
    }
    out
}

/// The first `r` columns of Q (as rows `[r, n]`) and rows of R (`[r, k]`) of `w = QR`, by Gram-Schmidt done twice.
fn first_of_qr(w: &[f64], n: usize, k: usize, r: usize) -> (Vec<f64>, Vec<f64>) {
    let mut q: Vec<f64> = Vec::with_capacity(r * n);
    for column in 0..r {
        let mut x: Vec<f64> = (0..n).map(|j| w[j * k + column]).collect();
        for _ in 0..2 {
            for before in q.chunks_exact(n) {
                let share = dot(before, &x);
                add(&mut x, -share, before);
            }
        }
        let length = dot(&x, &x).sqrt();
        if length > 0.0 {
            x.iter_mut().for_each(|v| *v /= length);
        }
        q.extend(x);
    }
    let mut rest = vec![0.0; r * k];
    for (q, row) in q.chunks_exact(n).zip(rest.chunks_exact_mut(k)) {
        for (q, w) in q.iter().zip(w.chunks_exact(k)) {
            add(row, *q, w);
        }
    }
    (q, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrotune_kernels::rng::Stream;

    fn random(n: usize, k: usize) -> Vec<f64> {
        let s = Stream::new(4, "decompose", 0);
        (0..(n * k) as u64).map(|i| s.normal(i) as f64).collect()
    }

    #[test]
    fn qr_gives_orthogonal_columns_that_make_up_the_first_columns() {
        let (n, k, r) = (20, 12, 5);
        let w = random(n, k);
        let (q, rows) = first_of_qr(&w, n, k, r);
        for i in 0..r {
            for j in 0..r {
                let product = dot(&q[i * n..][..n], &q[j * n..][..n]);
                assert!((product - (i == j) as u8 as f64).abs() < 1e-12);
            }
        }
        // W = QR: the first r columns of W need only the first r columns of Q.
        for j in 0..n {
            for i in 0..r {
                let sum: f64 = (0..r).map(|p| q[p * n + j] * rows[p * k + i]).sum();
                assert!((w[j * k + i] - sum).abs() < 1e-12);
            }
        }
    }
}
