//! Chunks through the GEMM micro-kernels; a task owns a tree of segments and a key head with up to eight of its value heads.
//!
//! All products are of f32 inputs in both columns of the precision table: the state goes through all of them, and what
//! rounding takes from it stays lost.

mod backward;
mod chunk;
mod forward;
mod gradient;
mod rows;

use std::ops::Range;

use super::{Cached, GatedDelta, Gradients, Heads, Rule, Segment, trees};
use crate::cpu::Cpu;
use crate::cpu::tiles::Tiles;
use crate::dtype::Precision;

pub(super) use backward::backward;
pub(super) use forward::forward;

/// Most tokens of a chunk. Chunks begin where their segment does, so its bits do not depend on its neighbours.
const CHUNK: usize = 64;

/// Most value heads of a task. The sums over those of a key head are sums of the tasks' sums, so it is no function of the
/// number of threads.
const HEADS: usize = 8;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
struct Plan {
    tiles: Tiles,
    heads: Heads,
    /// Whether tokens ask the memory under their keys.
    asks: bool,
}

impl Plan {
    fn new(cpu: &Cpu, x: GatedDelta<'_>) -> Self {
        let tiles = Tiles::new(cpu.isa(), Precision::F32);
        Plan { tiles, heads: x.heads, asks: x.rule == Rule::Delta }
    }
}

/// A task's tree, and its heads.
#[derive(Clone)]
struct Task {
    /// Segments.
    tree: Range<usize>,
    /// The key head.
    g: usize,
    /// Value heads.
    heads: Range<usize>,
    /// Its number among those of the tree.
    part: usize,
}

/// Tasks that one key head has in a tree.
fn parts(heads: Heads) -> usize {
    heads.group().div_ceil(HEADS)
}

/// All tasks.
fn tasks(segments: &[Segment], heads: Heads) -> Vec<Task> {
    let (group, parts) = (heads.group(), parts(heads));
    let of_tree = |tree: Range<usize>| {
        (0..heads.k * parts).map(move |part| {
            let (g, first) = (part / parts, part % parts * HEADS);
            let heads = g * group + first..g * group + (first + HEADS).min(group);
            Task { tree: tree.clone(), g, heads, part }
        })
    };
    trees(segments).flat_map(of_tree).collect()
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
