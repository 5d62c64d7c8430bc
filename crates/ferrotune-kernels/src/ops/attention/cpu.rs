//! Tiles of 64 queries by 64 keys through the GEMM micro-kernels.
//!
//! K and V of a segment are packed once per kv head and shared by the query heads of its group. The forward keeps a
//! running maximum and sum per query (Milakov and Gimelshein 2018; Dao et al. 2022). In the backward a task owns a
//! segment and a kv head, so dK and dV are summed in a fixed order without sharing.

use super::{Heads, Segment};
use crate::cpu::left::{columns_to_words, rows_to_words};
use crate::cpu::math::{dot, exp, max, sum, tanh};
use crate::cpu::microkernel::{Micro, PANEL, pick, tile};
use crate::cpu::panel::{Packing, pack_panel, scratch_words};
use crate::cpu::words::{Mat, Words};
use crate::cpu::{Cpu, Isa, SharedMut, per_isa};
use crate::dtype::{DType, Precision};
use crate::tensor::{Buffer, Tensor};

/// Queries, and keys, of a tile.
const TILE: usize = PANEL;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Plan {
    isa: Isa,
    micro: Micro,
    kind: Words,
    heads: Heads,
}

impl Plan {
    fn new(cpu: &Cpu, precision: Precision, heads: Heads) -> Self {
        let micro = pick(cpu.isa(), precision == Precision::Bf16);
        Plan { isa: cpu.isa(), micro, kind: Words::of(micro, precision), heads }
    }

    fn packing(&self) -> Packing {
        Packing { isa: self.isa, micro: self.micro, kind: self.kind }
    }

    /// Words of a panel of `cols` columns and a reduction of `k`.
    fn panel_words(&self, cols: usize, k: usize) -> usize {
        cols.div_ceil(PANEL) * PANEL * self.kind.count(k)
    }

    /// Words of a left operand.
    fn tile_words(&self, m: usize, k: usize) -> usize {
        m * self.kind.count(k)
    }

    /// Packs rows `row..row + n` of head columns as columns of B (reduction over the head's width).
    fn pack_keys(&self, mat: Mat<'_>, row: usize, n: usize, scratch: &mut [f32], out: &mut [f32]) {
        pack_panel(self.packing(), (mat, false), (row, n), (0, self.heads.dim), scratch, out);
    }

    /// Packs rows `row..row + n` as the reduction of B, the head's width being its columns.
    fn pack_rows(&self, mat: Mat<'_>, row: usize, n: usize, scratch: &mut [f32], out: &mut [f32]) {
        let step = PANEL * self.kind.count(n);
        for (p, col) in (0..self.heads.dim).step_by(PANEL).enumerate() {
            let cols = (self.heads.dim - col).min(PANEL);
            let out = &mut out[p * step..];
            pack_panel(self.packing(), (mat, true), (col, cols), (row, n), scratch, out);
        }
    }

    /// `C [m, dim] (+)= A B` where B was packed by [`Plan::pack_rows`] with a reduction of `k`.
    fn times_rows(&self, k: usize, a: &[f32], b: &[f32], c: &mut [f32], m: usize) {
        let (words, d) = (self.kind.count(k), self.heads.dim);
        for (p, col) in (0..d).step_by(PANEL).enumerate() {
            let cols = (d - col).min(PANEL);
            tile(self.micro, words, a, words, &b[p * PANEL * words..], &mut c[col..], d, m, cols, true);
        }
    }
}

/// Columns of head `h` as a matrix.
fn head(t: &Tensor, h: usize, dim: usize) -> Mat<'_> {
    match t.dtype() {
        DType::F32 => Mat::F32(&t.f32()[h * dim..], t.cols()),
        _ => Mat::Bf16(&t.bf16()[h * dim..], t.cols()),
    }
}

per_isa! {
    /// Online softmax of one row of a tile: gives the factor for what was summed before, and updates `(max, sum)`.
    pub(super) fn softmax_row(s: &mut [f32], state: &mut (f32, f32)) -> f32 {
        let top = max(s).max(state.0);
        for v in s.iter_mut() {
            *v = exp(*v - top);
        }
        let keep = exp(state.0 - top);
        *state = (top, state.1 * keep + sum(s));
        keep
    }
}

per_isa! {
    pub(super) fn scale_row(row: &mut [f32], by: f32) {
        for v in row {
            *v *= by;
        }
    }
}

per_isa! {
    /// `s = cap tanh(s / cap)`.
    pub(super) fn cap_row(s: &mut [f32], cap: f32) {
        for s in s {
            *s = cap * tanh(*s / cap);
        }
    }
}

per_isa! {
    /// `ds *= 1 - (s / cap)^2` for capped scores `s`.
    fn cap_slope_row(s: &[f32], ds: &mut [f32], cap: f32) {
        for (s, ds) in s.iter().zip(ds) {
            let t = *s / cap;
            *ds *= 1.0 - t * t;
        }
    }
}

per_isa! {
    /// `p = exp(s - lse)` in place of `s`, `ds = p (dp - delta)` in place of `dp`.
    fn gradient_row(s: &mut [f32], dp: &mut [f32], lse: f32, delta: f32) {
        for (s, dp) in s.iter_mut().zip(dp) {
            let p = exp(*s - lse);
            *s = p;
            *dp = p * (*dp - delta);
        }
    }
}

per_isa! {
    fn dot_row(a: &[f32], b: &[f32]) -> f32 {
        dot(a, b)
    }
}

/// First and one past the last tile of keys that any query of `q0..q0 + m` sees.
fn key_tiles(s: &Segment, q0: usize, m: usize, window: Option<usize>) -> std::ops::Range<usize> {
    s.visible(q0, window).start / TILE..s.visible(q0 + m - 1, window).end.div_ceil(TILE)
}

/// The part of a row of scores (keys `k0..k0 + n`) that query `i` sees, relative to `k0`.
fn visible_part(s: &Segment, i: usize, window: Option<usize>, k0: usize, n: usize) -> std::ops::Range<usize> {
    let keys = s.visible(i, window);
    let start = keys.start.clamp(k0, k0 + n) - k0;
    start..(keys.end.clamp(k0, k0 + n) - k0).max(start)
}

/// Packed keys and values of one segment and kv head.
struct PackedKv {
    keys: Buffer,
    values: Buffer,
}

pub(super) fn forward(
    cpu: &Cpu,
    precision: Precision,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &[Segment],
    heads: Heads,
    o: &mut Tensor,
    lse: &mut Tensor,
) {
    let plan = Plan::new(cpu, precision, heads);
    let (d, group, rows, width) = (heads.dim, heads.q / heads.kv, q.rows(), q.cols());
    let (key_step, value_step) = (plan.panel_words(TILE, d), plan.panel_words(d, TILE));

    let mut packed: Vec<PackedKv> = segments
        .iter()
        .flat_map(|s| (0..heads.kv).map(|_| s.k_len.div_ceil(TILE)))
        .map(|tiles| PackedKv {
            keys: cpu.pool().take(tiles * key_step),
            values: cpu.pool().take(tiles * value_step),
        })
        .collect();
    let shared = SharedMut::new(&mut packed);
    let scratch = || cpu.pool().take(scratch_words(plan.kind, d.max(TILE)));
    cpu.run_with(segments.len() * heads.kv, scratch, |scratch, task| {
        let (s, g) = (&segments[task / heads.kv], task % heads.kv);
        // SAFETY: one task for each segment and kv head.
        let kv = unsafe { &mut shared.slice(task..task + 1)[0] };
        for t in 0..s.k_len.div_ceil(TILE) {
            let (row, n) = (s.k_start + t * TILE, (s.k_len - t * TILE).min(TILE));
            plan.pack_keys(head(k, g, d), row, n, scratch.f32_mut(), &mut kv.keys.f32_mut()[t * key_step..]);
            plan.pack_rows(
                head(v, g, d),
                row,
                n,
                scratch.f32_mut(),
                &mut kv.values.f32_mut()[t * value_step..],
            );
        }
    });

    let tasks: Vec<(usize, usize, usize)> = segments
        .iter()
        .enumerate()
        .flat_map(|(s, seg)| {
            (0..heads.q).flat_map(move |h| (0..seg.q_len).step_by(TILE).map(move |q0| (s, h, q0)))
        })
        .collect();
    let (out, lse) = (SharedMut::new(o.f32_mut()), SharedMut::new(lse.f32_mut()));
    let words = [TILE * d, plan.tile_words(TILE, d), TILE * TILE, plan.tile_words(TILE, TILE), TILE * d];
    let state = || words.map(|w| cpu.pool().take(w));
    cpu.run_with(tasks.len(), state, |[rows_q, q_tile, scores, p_tile, acc], task| {
        let (s, h, q0) = tasks[task];
        let (seg, kv) = (&segments[s], &packed[s * heads.kv + h / group]);
        let m = (seg.q_len - q0).min(TILE);
        let q_rows = &mut rows_q.f32_mut()[..m * d];
        for i in 0..m {
            head(q, h, d).read(plan.isa, seg.q_start + q0 + i, 0, &mut q_rows[i * d..][..d]);
        }
        scale_row(plan.isa, q_rows, heads.scale);
        rows_to_words(plan.isa, plan.kind, q_rows, d, m, d, q_tile.f32_mut());
        let acc = &mut acc.f32_mut()[..m * d];
        acc.fill(0.0);
        let mut state = [(f32::NEG_INFINITY, 0.0f32); TILE];
        for t in key_tiles(seg, q0, m, heads.window) {
            let (k0, n) = (t * TILE, (seg.k_len - t * TILE).min(TILE));
            let scores = &mut scores.f32_mut()[..TILE * TILE];
            let keys = &kv.keys.f32()[t * key_step..];
            tile(
                plan.micro,
                plan.kind.count(d),
                q_tile.f32(),
                plan.kind.count(d),
                keys,
                scores,
                TILE,
                m,
                n,
                false,
            );
            for i in 0..m {
                let part = visible_part(seg, q0 + i, heads.window, k0, n);
                let row = &mut scores[i * TILE..][..n];
                row[..part.start].fill(0.0);
                row[part.end..].fill(0.0);
                if part.is_empty() {
                    continue;
                }
                let row = &mut row[part];
                if let Some(cap) = heads.cap {
                    cap_row(plan.isa, row, cap);
                }
                let keep = softmax_row(plan.isa, row, &mut state[i]);
                scale_row(plan.isa, &mut acc[i * d..][..d], keep);
            }
            rows_to_words(plan.isa, plan.kind, scores, TILE, m, n, p_tile.f32_mut());
            plan.times_rows(n, p_tile.f32(), &kv.values.f32()[t * value_step..], acc, m);
        }
        for i in 0..m {
            let row = seg.q_start + q0 + i;
            let (top, total) = state[i];
            scale_row(plan.isa, &mut acc[i * d..][..d], 1.0 / total);
            // SAFETY: the task owns these rows of this head.
            unsafe {
                out.slice(row * width + h * d..row * width + (h + 1) * d).copy_from_slice(&acc[i * d..][..d]);
                lse.slice(h * rows + row..h * rows + row + 1)[0] = top + total.ln();
            }
        }
    });
}

pub(super) fn backward(
    cpu: &Cpu,
    precision: Precision,
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    (o, lse): (&Tensor, &Tensor),
    d_o: &Tensor,
    segments: &[Segment],
    heads: Heads,
    (dq, dk, dv): (&mut Tensor, &mut Tensor, &mut Tensor),
) {
    let plan = Plan::new(cpu, precision, heads);
    let (d, group, rows) = (heads.dim, heads.q / heads.kv, q.rows());
    let (q_width, kv_width) = (q.cols(), k.cols());
    let (key_step, row_step) = (plan.panel_words(TILE, d), plan.panel_words(d, TILE));
    let (dq, dk, dv) =
        (SharedMut::new(dq.f32_mut()), SharedMut::new(dk.f32_mut()), SharedMut::new(dv.f32_mut()));
    let lse = lse.f32();
    let take = |words: usize| cpu.pool().take(words);
    let longest = segments.iter().map(|s| s.k_len.div_ceil(TILE)).max().unwrap_or(0);
    let state = || Scratch {
        pack: take(scratch_words(plan.kind, d.max(TILE))),
        keys: take(longest * key_step),
        key_rows: take(longest * row_step),
        values: take(longest * key_step),
        dk: take(longest * TILE * d),
        dv: take(longest * TILE * d),
        query: Side::new(&plan, cpu),
        grad: Side::new(&plan, cpu),
        dq: take(TILE * d),
        scores: take(TILE * TILE),
        dscores: take(TILE * TILE),
        left: take(plan.tile_words(TILE, TILE)),
        output: take(d),
        capped: [0.0; TILE],
    };
    cpu.run_with(segments.len() * heads.kv, state, |x, task| {
        let (seg, g) = (&segments[task / heads.kv], task % heads.kv);
        let tiles = seg.k_len.div_ceil(TILE);
        for t in 0..tiles {
            let (row, n) = (seg.k_start + t * TILE, (seg.k_len - t * TILE).min(TILE));
            plan.pack_keys(head(k, g, d), row, n, x.pack.f32_mut(), &mut x.keys.f32_mut()[t * key_step..]);
            plan.pack_keys(head(v, g, d), row, n, x.pack.f32_mut(), &mut x.values.f32_mut()[t * key_step..]);
            plan.pack_rows(
                head(k, g, d),
                row,
                n,
                x.pack.f32_mut(),
                &mut x.key_rows.f32_mut()[t * row_step..],
            );
        }
        x.dk.f32_mut()[..tiles * TILE * d].fill(0.0);
        x.dv.f32_mut()[..tiles * TILE * d].fill(0.0);
        for h in g * group..(g + 1) * group {
            for q0 in (0..seg.q_len).step_by(TILE) {
                let m = (seg.q_len - q0).min(TILE);
                let first = seg.q_start + q0;
                x.query.load(&plan, head(q, h, d), first, m, heads.scale, x.pack.f32_mut());
                x.grad.load(&plan, head(d_o, h, d), first, m, 1.0, x.pack.f32_mut());
                // delta = rowsum(dO O) = rowsum(P dP)
                let mut delta = [0.0f32; TILE];
                let output = &mut x.output.f32_mut()[..d];
                for i in 0..m {
                    head(o, h, d).read(plan.isa, first + i, 0, output);
                    delta[i] = dot_row(plan.isa, output, &x.grad.rows.f32()[i * d..][..d]);
                }
                let dq_tile = &mut x.dq.f32_mut()[..m * d];
                dq_tile.fill(0.0);
                for t in key_tiles(seg, q0, m, heads.window) {
                    let (k0, n) = (t * TILE, (seg.k_len - t * TILE).min(TILE));
                    let (s, ds) = (x.scores.f32_mut(), x.dscores.f32_mut());
                    let words = plan.kind.count(d);
                    tile(
                        plan.micro,
                        words,
                        x.query.left.f32(),
                        words,
                        &x.keys.f32()[t * key_step..],
                        s,
                        TILE,
                        m,
                        n,
                        false,
                    );
                    tile(
                        plan.micro,
                        words,
                        x.grad.left.f32(),
                        words,
                        &x.values.f32()[t * key_step..],
                        ds,
                        TILE,
                        m,
                        n,
                        false,
                    );
                    for i in 0..m {
                        let part = visible_part(seg, q0 + i, heads.window, k0, n);
                        let (s, ds) = (&mut s[i * TILE..][..n], &mut ds[i * TILE..][..n]);
                        for row in [&mut *s, &mut *ds] {
                            row[..part.start].fill(0.0);
                            row[part.end..].fill(0.0);
                        }
                        let (s, ds) = (&mut s[part.clone()], &mut ds[part]);
                        let lse = lse[h * rows + first + i];
                        match heads.cap {
                            None => gradient_row(plan.isa, s, ds, lse, delta[i]),
                            Some(cap) => {
                                cap_row(plan.isa, s, cap);
                                let capped = &mut x.capped[..s.len()];
                                capped.copy_from_slice(s);
                                gradient_row(plan.isa, s, ds, lse, delta[i]);
                                cap_slope_row(plan.isa, capped, ds, cap);
                            }
                        }
                    }
                    let left = x.left.f32_mut();
                    columns_to_words(plan.isa, plan.kind, Mat::F32(s, TILE), 1.0, 0..n, m, left);
                    plan.times_rows(m, left, x.grad.right.f32(), &mut x.dv.f32_mut()[k0 * d..], n);
                    columns_to_words(plan.isa, plan.kind, Mat::F32(ds, TILE), 1.0, 0..n, m, left);
                    plan.times_rows(m, left, x.query.right.f32(), &mut x.dk.f32_mut()[k0 * d..], n);
                    rows_to_words(plan.isa, plan.kind, ds, TILE, m, n, left);
                    plan.times_rows(n, left, &x.key_rows.f32()[t * row_step..], dq_tile, m);
                }
                scale_row(plan.isa, dq_tile, heads.scale);
                for (i, row) in dq_tile.chunks_exact(d).enumerate() {
                    let at = (first + i) * q_width + h * d;
                    // SAFETY: this task owns the segment's rows of its heads.
                    unsafe { dq.slice(at..at + d) }.copy_from_slice(row);
                }
            }
        }
        for j in 0..seg.k_len {
            let at = (seg.k_start + j) * kv_width + g * d;
            // SAFETY: this task owns the segment's rows of its kv head.
            unsafe {
                dk.slice(at..at + d).copy_from_slice(&x.dk.f32()[j * d..][..d]);
                dv.slice(at..at + d).copy_from_slice(&x.dv.f32()[j * d..][..d]);
            }
        }
    });
}

/// A thread's buffers in the backward.
struct Scratch {
    pack: Buffer,
    keys: Buffer,
    key_rows: Buffer,
    values: Buffer,
    dk: Buffer,
    dv: Buffer,
    query: Side,
    grad: Side,
    dq: Buffer,
    scores: Buffer,
    dscores: Buffer,
    left: Buffer,
    output: Buffer,
    /// Scores of a row after the cap, whose slope they give.
    capped: [f32; TILE],
}

/// A tile of rows (queries or output gradients) in the three forms that the backward multiplies.
struct Side {
    /// `[m, dim]`.
    rows: Buffer,
    /// As left operand, reduction over the head's width.
    left: Buffer,
    /// As right operand, reduction over the rows.
    right: Buffer,
}

impl Side {
    fn new(plan: &Plan, cpu: &Cpu) -> Self {
        let d = plan.heads.dim;
        Side {
            rows: cpu.pool().take(TILE * d),
            left: cpu.pool().take(plan.tile_words(TILE, d)),
            right: cpu.pool().take(plan.panel_words(d, TILE)),
        }
    }

    fn load(&mut self, plan: &Plan, mat: Mat<'_>, first: usize, m: usize, scale: f32, scratch: &mut [f32]) {
        let d = plan.heads.dim;
        let rows = &mut self.rows.f32_mut()[..m * d];
        for i in 0..m {
            mat.read(plan.isa, first + i, 0, &mut rows[i * d..][..d]);
        }
        scale_row(plan.isa, rows, scale);
        rows_to_words(plan.isa, plan.kind, rows, d, m, d, self.left.f32_mut());
        plan.pack_rows(Mat::F32(rows, d), 0, m, scratch, self.right.f32_mut());
    }
}
