//! Chunks through the GEMM micro-kernels; a task owns a tree of segments and a key head with its value heads.
//!
//! All products are of f32 inputs in both columns of the precision table: the state goes through all of them, and what
//! rounding takes from it stays lost.

mod backward;
mod chunk;
mod forward;
mod gradient;
mod rows;

use std::ops::Range;

use super::{Cached, GatedDelta, Gradients, Heads, Segment, trees};
use crate::cpu::tiles::Tiles;

pub(super) use backward::backward;
pub(super) use forward::forward;

/// Most tokens of a chunk. Chunks begin where their segment does, so its bits do not depend on its neighbours.
const CHUNK: usize = 64;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Plan {
    tiles: Tiles,
    heads: Heads,
}

/// Neighbouring tokens of a segment.
#[derive(Clone, Copy)]
struct Chunk {
    /// The first row.
    row: usize,
    /// Their number.
    n: usize,
    /// Whether the segment ends with it.
    last: bool,
}

/// The chunks of a segment.
fn chunks(s: &Segment) -> impl DoubleEndedIterator<Item = Chunk> + ExactSizeIterator + use<> {
    let Range { start, end } = s.queries();
    (0..s.q_len.div_ceil(CHUNK)).map(move |i| {
        let row = start + i * CHUNK;
        Chunk { row, n: (end - row).min(CHUNK), last: row + CHUNK >= end }
    })
}

/// For each segment its number among those of its tree that others go on from, if it is one; and the most of a tree.
fn parents(segments: &[Segment]) -> (Vec<Option<usize>>, usize) {
    let (mut numbers, mut most) = (vec![None; segments.len()], 0);
    for tree in trees(segments) {
        let mut count = 0;
        for parent in segments[tree].iter().filter_map(|s| s.parent) {
            if numbers[parent].is_none() {
                numbers[parent] = Some(count);
                count += 1;
            }
        }
        most = most.max(count);
    }
    (numbers, most)
}
