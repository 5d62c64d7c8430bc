//! In the backward a task owns a tree of segments, so dK and dV are summed in a fixed order without sharing.
//!
//! Where no segment goes on from another, a task takes the query heads of a kv head. A tree may be all that there is in a
//! batch, so its tasks are smaller: a query head each, whose dK and dV are added up afterwards.

use super::rows::{cap_row, cap_slope_row, dot_row, gradient_row, scale_row};
use super::{
    Attention, Keys, Outputs, Plan, Queries, Sinks, TILE, key_tiles, query_tiles, trees, visible_part,
};
use crate::cpu::left::{columns_to_words, rows_to_words};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, add_blocks};
use crate::dtype::Precision;
use crate::tensor::Buffer;

pub(in super::super) fn backward(
    cpu: &Cpu,
    precision: Precision,
    attention: Attention<'_>,
    outputs: Outputs<'_>,
    sinks: Sinks<'_>,
) {
    let (Attention { k, v, segments, heads, .. }, Sinks { dq, dk, dv }) = (attention, sinks);
    let plan = Plan::new(cpu, precision, heads);
    let mut tile_of = Vec::new();
    let trees: Vec<_> = trees(segments).collect();
    let mut longest = 0;
    for tree in &trees {
        let mut tiles = 0;
        for s in &segments[tree.clone()] {
            tile_of.push(tiles);
            tiles += s.k_len.div_ceil(TILE);
        }
        longest = longest.max(tiles);
    }
    let parts = if trees.len() < segments.len() { heads.q } else { heads.kv };
    let inputs = Inputs { plan, attention, tile_of: &tile_of, outputs };
    let scratch = || Scratch::new(&plan, cpu, longest);
    let dq = SharedMut::new(dq.host_f32_mut());
    let run = |dk: &mut [f32], dv: &mut [f32]| {
        let (dk, dv) = (SharedMut::new(dk), SharedMut::new(dv));
        cpu.threads().run_with(trees.len() * parts, scratch, |x, task| {
            let (tree, part) = (trees[task / parts].clone(), task % parts);
            x.tree(&inputs, tree.clone(), part, heads.q / parts, &dq);
            for s in tree {
                x.write(&inputs, s, (part, parts), &dk, &dv);
            }
        });
    };
    if parts == heads.kv {
        return run(dk.host_f32_mut(), dv.host_f32_mut());
    }
    let mut wide = [k, v].map(|t| cpu.pool().take(t.rows() * parts * heads.dim));
    let [wide_k, wide_v] = &mut wide;
    run(wide_k.f32_mut(), wide_v.f32_mut());
    for (wide, sum) in wide.iter().zip([dk, dv]) {
        add_blocks(cpu, wide.f32(), heads.q / heads.kv, heads.dim, sum);
    }
}

/// What all tasks read.
struct Inputs<'a> {
    plan: Plan,
    attention: Attention<'a>,
    /// The number of each segment's first tile of keys in its tree.
    tile_of: &'a [usize],
    outputs: Outputs<'a>,
}

/// A thread's buffers.
struct Scratch {
    pack: Buffer,
    /// Tiles of keys, in the order of the tree: as columns, as rows; and of values.
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
    /// `rowsum(dO O) = rowsum(P dP)` of each query.
    delta: [f32; TILE],
    /// Scores of a row after the cap, whose slope they give.
    capped: [f32; TILE],
}

impl Scratch {
    fn new(plan: &Plan, cpu: &Cpu, tiles: usize) -> Self {
        let take = |words: usize| cpu.pool().take(words);
        let d = plan.heads.dim;
        let (key_step, row_step) = (plan.tiles.right_words(TILE, d), plan.tiles.right_words(d, TILE));
        Scratch {
            pack: take(plan.tiles.scratch_words(d)),
            keys: take(tiles * key_step),
            key_rows: take(tiles * row_step),
            values: take(tiles * key_step),
            dk: take(tiles * TILE * d),
            dv: take(tiles * TILE * d),
            query: Side::new(plan, cpu),
            grad: Side::new(plan, cpu),
            dq: take(TILE * d),
            scores: take(TILE * TILE),
            dscores: take(TILE * TILE),
            left: take(plan.tiles.left_words(TILE, TILE)),
            output: take(d),
            delta: [0.0; TILE],
            capped: [0.0; TILE],
        }
    }

    /// dQ of `count` query heads of a tree; their sums of dK and dV stay here.
    fn tree(
        &mut self,
        x: &Inputs<'_>,
        tree: std::ops::Range<usize>,
        part: usize,
        count: usize,
        dq: &SharedMut<'_, f32>,
    ) {
        let heads = x.plan.heads;
        let (d, group) = (heads.dim, heads.q / heads.kv);
        let mut tiles = 0;
        for s in tree.clone() {
            self.pack(x, s, part * count / group);
            tiles = x.tile_of[s] + x.attention.segments[s].k_len.div_ceil(TILE);
        }
        self.dk.f32_mut()[..tiles * TILE * d].fill(0.0);
        self.dv.f32_mut()[..tiles * TILE * d].fill(0.0);
        let width = heads.q * d;
        for h in part * count..(part + 1) * count {
            for s in tree.clone() {
                for queries in query_tiles(x.attention.segments, s) {
                    self.load(x, h, queries);
                    for keys in key_tiles(x.attention.segments, s, heads, queries) {
                        self.pair(x, h, queries, keys);
                    }
                    let dq_tile = &mut self.dq.f32_mut()[..queries.m * d];
                    scale_row(x.plan.tiles.isa, dq_tile, heads.scale);
                    for (i, row) in dq_tile.chunks_exact(d).enumerate() {
                        let at = (queries.row + i) * width + h * d;
                        // SAFETY: this task owns the tree's rows of its heads.
                        unsafe { dq.slice(at..at + d) }.copy_from_slice(row);
                    }
                }
            }
        }
    }

    /// Packs keys and values of a segment.
    fn pack(&mut self, x: &Inputs<'_>, s: usize, g: usize) {
        let (plan, seg, d) = (x.plan, &x.attention.segments[s], x.plan.heads.dim);
        let (key_step, row_step) = (plan.tiles.right_words(TILE, d), plan.tiles.right_words(d, TILE));
        let (k, v, scratch) =
            (Mat::head(x.attention.k, g, d), Mat::head(x.attention.v, g, d), self.pack.f32_mut());
        for t in 0..seg.k_len.div_ceil(TILE) {
            let (row, n, at) = (seg.k_start + t * TILE, (seg.k_len - t * TILE).min(TILE), x.tile_of[s] + t);
            plan.pack_keys(k, row, n, scratch, &mut self.keys.f32_mut()[at * key_step..]);
            plan.pack_keys(v, row, n, scratch, &mut self.values.f32_mut()[at * key_step..]);
            plan.pack_rows(k, row, n, &mut self.key_rows.f32_mut()[at * row_step..]);
        }
    }

    /// A tile of queries and output gradients; their dQ begins at zero.
    fn load(&mut self, x: &Inputs<'_>, h: usize, q: Queries) {
        let (plan, d) = (x.plan, x.plan.heads.dim);
        self.query.load(&plan, Mat::head(x.attention.q, h, d), q.row, q.m, plan.heads.scale);
        self.grad.load(&plan, Mat::head(x.outputs.d_o, h, d), q.row, q.m, 1.0);
        self.dq.f32_mut()[..q.m * d].fill(0.0);
        let output = &mut self.output.f32_mut()[..d];
        for i in 0..q.m {
            Mat::head(x.outputs.o, h, d).read(plan.tiles.isa, q.row + i, 0, output);
            self.delta[i] = dot_row(plan.tiles.isa, output, &self.grad.rows.f32()[i * d..][..d]);
        }
    }

    /// What a tile of queries and a tile of keys give each other.
    fn pair(&mut self, x: &Inputs<'_>, h: usize, q: Queries, k: Keys) {
        let (plan, d, m, n) = (x.plan, x.plan.heads.dim, q.m, k.n);
        let (isa, kind, heads) = (plan.tiles.isa, plan.tiles.kind, plan.heads);
        let lse = x.outputs.lse.host_f32();
        let (key_step, row_step) = (plan.tiles.right_words(TILE, d), plan.tiles.right_words(d, TILE));
        let t = x.tile_of[k.place.0] + k.place.1;
        let (s, ds) = (self.scores.f32_mut(), self.dscores.f32_mut());
        plan.times_keys(self.query.left.f32(), &self.keys.f32()[t * key_step..], s, m, n);
        plan.times_keys(self.grad.left.f32(), &self.values.f32()[t * key_step..], ds, m, n);
        for i in 0..m {
            let part = visible_part(heads, q, i, k);
            let (s, ds) = (&mut s[i * TILE..][..n], &mut ds[i * TILE..][..n]);
            for row in [&mut *s, &mut *ds] {
                row[..part.start].fill(0.0);
                row[part.end..].fill(0.0);
            }
            let (s, ds) = (&mut s[part.clone()], &mut ds[part]);
            let (lse, delta) = (lse[h * x.attention.q.rows() + q.row + i], self.delta[i]);
            match heads.cap {
                None => gradient_row(isa, s, ds, lse, delta),
                Some(cap) => {
                    cap_row(isa, s, cap);
                    let capped = &mut self.capped[..s.len()];
                    capped.copy_from_slice(s);
                    gradient_row(isa, s, ds, lse, delta);
                    cap_slope_row(isa, capped, ds, cap);
                }
            }
        }
        let (left, at) = (self.left.f32_mut(), t * TILE * d);
        columns_to_words(isa, kind, Mat::F32(s, TILE), 0..n, m, left);
        plan.times_rows(m, left, self.grad.right.f32(), &mut self.dv.f32_mut()[at..], n);
        columns_to_words(isa, kind, Mat::F32(ds, TILE), 0..n, m, left);
        plan.times_rows(m, left, self.query.right.f32(), &mut self.dk.f32_mut()[at..], n);
        rows_to_words(isa, kind, ds, TILE, m, n, left);
        plan.times_rows(n, left, &self.key_rows.f32()[t * row_step..], &mut self.dq.f32_mut()[..m * d], m);
    }

    /// Copies dK and dV of a segment to column block `part` of `parts`.
    fn write(
        &self,
        x: &Inputs<'_>,
        s: usize,
        (part, parts): (usize, usize),
        dk: &SharedMut<'_, f32>,
        dv: &SharedMut<'_, f32>,
    ) {
        let (d, seg) = (x.plan.heads.dim, &x.attention.segments[s]);
        for j in 0..seg.k_len {
            let at = ((seg.k_start + j) * parts + part) * d;
            let from = (x.tile_of[s] * TILE + j) * d;
            // SAFETY: this task owns these rows of its part, and no other segment has them.
            unsafe {
                dk.slice(at..at + d).copy_from_slice(&self.dk.f32()[from..][..d]);
                dv.slice(at..at + d).copy_from_slice(&self.dv.f32()[from..][..d]);
            }
        }
    }
}

/// A tile of rows (queries or output gradients) in the three forms that the backward multiplies.
struct Side {
    /// `[m, dim]`.
    rows: Buffer,
    /// Packed as a left operand; the reduction goes over the head's width.
    left: Buffer,
    /// Packed as a right operand; the reduction goes over the rows.
    right: Buffer,
}

impl Side {
    fn new(plan: &Plan, cpu: &Cpu) -> Self {
        let d = plan.heads.dim;
        Side {
            rows: cpu.pool().take(TILE * d),
            left: cpu.pool().take(plan.tiles.left_words(TILE, d)),
            right: cpu.pool().take(plan.tiles.right_words(d, TILE)),
        }
    }

    fn load(&mut self, plan: &Plan, mat: Mat<'_>, first: usize, m: usize, scale: f32) {
        let d = plan.heads.dim;
        let rows = &mut self.rows.f32_mut()[..m * d];
        for i in 0..m {
            mat.read(plan.tiles.isa, first + i, 0, &mut rows[i * d..][..d]);
        }
        scale_row(plan.tiles.isa, rows, scale);
        rows_to_words(plan.tiles.isa, plan.tiles.kind, rows, d, m, d, self.left.f32_mut());
        plan.pack_rows(Mat::F32(rows, d), 0, m, self.right.f32_mut());
    }
}
