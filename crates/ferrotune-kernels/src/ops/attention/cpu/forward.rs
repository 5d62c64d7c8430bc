//! The forward keeps a running maximum and sum per query (Milakov and Gimelshein 2018; Dao et al. 2022).

use super::rows::{cap_row, scale_row, softmax_row};
use super::{Attention, Plan, TILE, key_tiles, query_tiles, visible_part};
use crate::cpu::left::rows_to_words;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut};
use crate::dtype::Precision;
use crate::tensor::{Buffer, Tensor};

/// Packed keys and values of one segment and kv head.
struct PackedKv {
    keys: Buffer,
    values: Buffer,
}

pub(in super::super) fn forward(
    cpu: &Cpu,
    precision: Precision,
    x: Attention<'_>,
    o: &mut Tensor,
    lse: &mut Tensor,
) {
    let Attention { q, segments, heads, .. } = x;
    let plan = Plan::new(cpu, precision, heads);
    let (d, group, rows, width) = (heads.dim, heads.q / heads.kv, q.rows(), q.cols());
    let (key_step, value_step) = (plan.tiles.right_words(TILE, d), plan.tiles.right_words(d, TILE));
    let packed = pack(cpu, plan, x);

    let tiles = |s| query_tiles(segments, s);
    let tasks: Vec<_> = (0..segments.len())
        .flat_map(|s| (0..heads.q).flat_map(move |h| tiles(s).map(move |queries| (s, h, queries))))
        .collect();
    let (out, lse) = (SharedMut::new(o.host_f32_mut()), SharedMut::new(lse.host_f32_mut()));
    let words =
        [TILE * d, plan.tiles.left_words(TILE, d), TILE * TILE, plan.tiles.left_words(TILE, TILE), TILE * d];
    let state = || words.map(|w| cpu.pool().take(w));
    cpu.threads().run_with(tasks.len(), state, |[rows_q, q_tile, scores, p_tile, acc], task| {
        let (s, h, queries) = tasks[task];
        let m = queries.m;
        let q_rows = &mut rows_q.f32_mut()[..m * d];
        for i in 0..m {
            Mat::head(q, h, d).read(plan.tiles.isa, queries.row + i, 0, &mut q_rows[i * d..][..d]);
        }
        scale_row(plan.tiles.isa, q_rows, heads.scale);
        rows_to_words(plan.tiles.isa, plan.tiles.kind, q_rows, d, m, d, q_tile.f32_mut());
        let acc = &mut acc.f32_mut()[..m * d];
        acc.fill(0.0);
        let mut state = [(f32::NEG_INFINITY, 0.0f32); TILE];
        for keys in key_tiles(segments, s, heads, queries) {
            let (n, (segment, t)) = (keys.n, keys.place);
            let kv = &packed[segment * heads.kv + h / group];
            let scores = &mut scores.f32_mut()[..TILE * TILE];
            plan.times_keys(q_tile.f32(), &kv.keys.f32()[t * key_step..], scores, m, n);
            for i in 0..m {
                let part = visible_part(heads, queries, i, keys);
                let row = &mut scores[i * TILE..][..n];
                row[..part.start].fill(0.0);
                row[part.end..].fill(0.0);
                if part.is_empty() {
                    continue;
                }
                let row = &mut row[part];
                if let Some(cap) = heads.cap {
                    cap_row(plan.tiles.isa, row, cap);
                }
                let keep = softmax_row(plan.tiles.isa, row, &mut state[i]);
                scale_row(plan.tiles.isa, &mut acc[i * d..][..d], keep);
            }
            rows_to_words(plan.tiles.isa, plan.tiles.kind, scores, TILE, m, n, p_tile.f32_mut());
            plan.times_rows(n, p_tile.f32(), &kv.values.f32()[t * value_step..], acc, m);
        }
        for i in 0..m {
            let row = queries.row + i;
            let (top, total) = state[i];
            scale_row(plan.tiles.isa, &mut acc[i * d..][..d], 1.0 / total);
            // SAFETY: the task owns these rows of this head.
            unsafe {
                out.slice(row * width + h * d..row * width + (h + 1) * d).copy_from_slice(&acc[i * d..][..d]);
                lse.slice(h * rows + row..h * rows + row + 1)[0] = top + total.ln();
            }
        }
    });
}

/// Keys and values of every segment and kv head, the kv heads of a segment side by side.
fn pack(cpu: &Cpu, plan: Plan, x: Attention<'_>) -> Vec<PackedKv> {
    let Attention { k, v, segments, .. } = x;
    let (d, kv_heads) = (plan.heads.dim, plan.heads.kv);
    let (key_step, value_step) = (plan.tiles.right_words(TILE, d), plan.tiles.right_words(d, TILE));
    let tiles = segments.iter().flat_map(|s| (0..kv_heads).map(|_| s.k_len.div_ceil(TILE)));
    let mut packed: Vec<_> = tiles
        .map(|tiles| PackedKv {
            keys: cpu.pool().take(tiles * key_step),
            values: cpu.pool().take(tiles * value_step),
        })
        .collect();
    let shared = SharedMut::new(&mut packed);
    let scratch = || cpu.pool().take(plan.tiles.scratch_words(d));
    cpu.threads().run_with(segments.len() * kv_heads, scratch, |scratch, task| {
        let (s, g) = (&segments[task / kv_heads], task % kv_heads);
        // SAFETY: one task for each segment and kv head.
        let kv = unsafe { &mut shared.slice(task..task + 1)[0] };
        let scratch = scratch.f32_mut();
        for t in 0..s.k_len.div_ceil(TILE) {
            let (row, n) = (s.k_start + t * TILE, (s.k_len - t * TILE).min(TILE));
            plan.pack_keys(Mat::head(k, g, d), row, n, scratch, &mut kv.keys.f32_mut()[t * key_step..]);
            plan.pack_rows(Mat::head(v, g, d), row, n, &mut kv.values.f32_mut()[t * value_step..]);
        }
    });
    packed
}
