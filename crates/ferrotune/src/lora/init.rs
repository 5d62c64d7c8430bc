//! Initialisations that move a part of the frozen weight into the branch: PiSSA, OLoRA, LoftQ.
//!
//! They depend on the weight alone, so an adapter that began with one is loaded by doing it again, as PEFT does.

use std::collections::BTreeMap;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use ferrotune_kernels::quant::nf4::{FourBitKind, quantize};

use super::config::{Init, LoraConfig};
use super::decompose::{first_of_qr, largest};
use super::kinds::Place;
use crate::load::dense;
use crate::model::parts::{Base, LinearLayer};
use crate::{Error, Result};

/// Where a branch starts, and what is left of the weight.
pub(super) struct InitialBranch {
    /// `A [R, K]`.
    pub(super) a: Vec<f32>,
    /// `B [N, R]`.
    pub(super) b: Vec<f32>,
    /// The frozen weight from now on.
    pub(super) base: Weight,
}

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
    let wide = |w: &[f32]| w.iter().map(|v| *v as f64).collect::<Vec<_>>();
    let left = |a: &[f32], b: &[f32]| {
        let rest = minus_product(&w, a, b, rank, scale as f64);
        dense(Weight::from_f32(n, k, &rest), dtype)
    };
    match config.init {
        Init::Pissa => {
            let top = largest(threads, &wide(&w), n, k, rank);
            let (a, b) = factors(&top.u, &top.s, &top.v, n, k, 1.0 / scale as f64);
            Ok(InitialBranch { base: left(&a, &b)?, a, b })
        }
        Init::Olora => {
            let (q, r) = first_of_qr(&wide(&w), n, k, rank);
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
                let top = largest(threads, &wide(&lost), n, k, rank);
                // PEFT leaves the scale out of account here.
                let (a, b) = factors(&top.u, &top.s, &top.v, n, k, 1.0);
                rest = minus_product(&w, &a, &b, rank, 1.0);
                done = Some(InitialBranch { a, b, base });
            }
            done.ok_or_else(|| Error::config("loftq_iterations", "found 0, expected at least 1"))
        }
        Init::Kaiming | Init::Gaussian => unreachable!("these leave the weight alone"),
    }
}

/// `A = sqrt(share S) Vt` and `B = U sqrt(share S)`.
fn factors(u: &[f64], s: &[f64], v: &[f64], n: usize, k: usize, share: f64) -> (Vec<f32>, Vec<f32>) {
    let r = s.len();
    let root: Vec<f64> = s.iter().map(|s| (s * share).sqrt()).collect();
    let a = (0..r * k).map(|i| (v[i] * root[i / k]) as f32).collect();
    let b = (0..n * r).map(|i| (u[i % r * n + i / r] * root[i % r]) as f32).collect();
    (a, b)
}

/// `W - s B A`, rounded once.
fn minus_product(w: &[f32], a: &[f32], b: &[f32], r: usize, scale: f64) -> Vec<f32> {
    let k = a.len() / r;
    let mut out = Vec::with_capacity(w.len());
    let mut sum = vec![0.0f64; k];
    for (row, b) in w.chunks_exact(k).zip(b.chunks_exact(r)) {
        sum.fill(0.0);
        for (b, a) in b.iter().zip(a.chunks_exact(k)) {
            sum.iter_mut().zip(a).for_each(|(s, a)| *s += *b as f64 * *a as f64);
        }
        out.extend(row.iter().zip(&sum).map(|(w, s)| (*w as f64 - scale * s) as f32));
    }
    out
}
