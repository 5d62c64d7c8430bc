//! Tiles of 64 queries by 64 keys through the GEMM micro-kernels.
//!
//! K and V of a segment are packed once per kv head and shared by all that see them: the query heads of the group, and
//! the segments that go on from this one. Which tiles a query sees follows from positions, so those outside of its window
//! are skipped. A query goes through the tiles of its own segment first, then through its parent's, and so on up.

mod backward;
mod forward;
mod rows;

use std::ops::Range;

use super::{Attention, Heads, Outputs, Run, Segment, Sinks, runs, trees, within};
use crate::cpu::Cpu;
use crate::cpu::microkernel::{Mode, PANEL};
use crate::cpu::tiles::Tiles;
use crate::cpu::words::Mat;
use crate::dtype::Precision;

pub(super) use backward::backward;
pub(super) use forward::forward;
pub(super) use rows::{cap_row, scale_row, softmax_row};

/// Queries, and keys, of a tile.
const TILE: usize = PANEL;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Plan {
    tiles: Tiles,
    heads: Heads,
}

impl Plan {
    fn new(cpu: &Cpu, precision: Precision, heads: Heads) -> Self {
        Plan { tiles: Tiles::new(cpu.isa(), precision), heads }
    }

    /// Packs rows `row..row + n` of head columns as columns of B (reduction over the head's width).
    fn pack_keys(&self, mat: Mat<'_>, row: usize, n: usize, scratch: &mut [f32], out: &mut [f32]) {
        self.tiles.pack_columns(mat, (row, n), self.heads.dim, scratch, out);
    }

    /// Packs rows `row..row + n` as the reduction of B, the head's width being its columns.
    fn pack_rows(&self, mat: Mat<'_>, row: usize, n: usize, out: &mut [f32]) {
        self.tiles.pack_rows(mat, (row, n), self.heads.dim, out);
    }

    /// `C [m, n] = A B` for rows of 64 where B was packed by [`Plan::pack_keys`].
    fn times_keys(&self, a: &[f32], b: &[f32], c: &mut [f32], m: usize, n: usize) {
        let d = self.heads.dim;
        self.tiles.multiply(d, (a, self.tiles.kind.count(d)), b, (c, TILE), (m, n), Mode::SET);
    }

    /// `C [m, dim] += A B` where B was packed by [`Plan::pack_rows`] with a reduction of `k`.
    fn times_rows(&self, k: usize, a: &[f32], b: &[f32], c: &mut [f32], m: usize) {
        let d = self.heads.dim;
        self.tiles.multiply(k, (a, self.tiles.kind.count(k)), b, (c, d), (m, d), Mode::ADD);
    }
}

/// Up to 64 neighbouring queries of a segment.
#[derive(Clone, Copy)]
struct Queries {
    /// Their first row.
    row: usize,
    /// Their number.
    m: usize,
    /// The position of the first.
    position: usize,
}

/// The tiles of queries of segment `s`.
fn query_tiles(segments: &[Segment], s: usize) -> impl Iterator<Item = Queries> {
    let seg = segments[s];
    let first = super::base(segments, s) + seg.k_len - seg.q_len;
    let tile =
        move |i: usize| Queries { row: seg.q_start + i, m: (seg.q_len - i).min(TILE), position: first + i };
    (0..seg.q_len).step_by(TILE).map(tile)
}

/// A tile of keys of one segment.
#[derive(Clone, Copy)]
struct Keys {
    /// The segment, and the tile's number in it.
    place: (usize, usize),
    /// Its number of keys.
    n: usize,
    /// The position of the first.
    position: usize,
}

/// The tiles of keys that any of these queries of segment `s` sees.
fn key_tiles(segments: &[Segment], s: usize, heads: Heads, q: Queries) -> impl Iterator<Item = Keys> {
    let seen = heads.visible(q.position).start..q.position + q.m;
    runs(segments, s).flat_map(move |Run { segment, base }| {
        let len = segments[segment].k_len;
        let part = within(&seen, base, len);
        let tiles = if part.is_empty() { 0..0 } else { part.start / TILE..part.end.div_ceil(TILE) };
        tiles.map(move |t| Keys {
            place: (segment, t),
            n: (len - t * TILE).min(TILE),
            position: base + t * TILE,
        })
    })
}

/// The part of a tile of keys that query `i` of a tile sees.
fn visible_part(heads: Heads, q: Queries, i: usize, k: Keys) -> Range<usize> {
    within(&heads.visible(q.position + i), k.position, k.n)
}
