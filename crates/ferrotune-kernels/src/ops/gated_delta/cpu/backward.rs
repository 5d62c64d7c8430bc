//! Head by head: states and `P` of all chunks of the tree first, then the chunks from the last to the first.

use std::ops::Range;

use super::chunk::Work;
use super::gradient::ChunkGradient;
use super::rows::{add, scale};
use super::{CHUNK, GatedDelta, Gradients, Plan, chunks, parents, trees};
use crate::cpu::tiles::Tiles;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut};
use crate::dtype::Precision;
use crate::tensor::{Buffer, Tensor};

/// What all tasks read, and where their gradients go.
struct Inputs<'a> {
    x: GatedDelta<'a>,
    d_o: &'a Tensor,
    /// Each segment's number among those of its tree that others go on from.
    numbers: Vec<Option<usize>>,
    /// Each segment's first chunk in its tree.
    chunk_of: Vec<usize>,
    dq: SharedMut<'a, f32>,
    dk: SharedMut<'a, f32>,
    dv: SharedMut<'a, f32>,
    dg: SharedMut<'a, f32>,
    dbeta: SharedMut<'a, f32>,
}

pub(in super::super) fn backward(cpu: &Cpu, x: GatedDelta<'_>, d_o: &Tensor, gradients: &mut Gradients) {
    let (heads, segments) = (x.heads, x.segments);
    let plan = Plan { tiles: Tiles::new(cpu.isa(), Precision::F32), heads };
    let (numbers, most) = parents(segments);
    let trees: Vec<_> = trees(segments).collect();
    let (mut chunk_of, mut longest) = (Vec::new(), 0);
    for tree in &trees {
        let mut count = 0;
        for s in &segments[tree.clone()] {
            chunk_of.push(count);
            count += chunks(s).len();
        }
        longest = longest.max(count);
    }
    let Gradients { dq, dk, dv, dg, dbeta } = gradients;
    let [dq, dk, dv, dg, dbeta] = [dq, dk, dv, dg, dbeta].map(|t| SharedMut::new(t.host_f32_mut()));
    let inputs = Inputs { x, d_o, numbers, chunk_of, dq, dk, dv, dg, dbeta };
    cpu.threads().run_with(
        trees.len() * heads.k,
        || Scratch::new(plan, cpu, longest, most),
        |scratch, task| {
            let (tree, g) = (trees[task / heads.k].clone(), task % heads.k);
            for h in g * heads.group()..(g + 1) * heads.group() {
                scratch.states(&inputs, tree.clone(), h);
                scratch.gradients(&inputs, tree.clone(), h);
            }
        },
    );
}

/// A thread's buffers.
struct Scratch {
    work: Work,
    /// Of every chunk of a tree: the state behind it, and `P`.
    states: Buffer,
    p: Buffer,
    /// The gradient of the state behind the chunk, then of the one before it.
    d_state: Buffer,
    /// Sums of the gradients of the states at the ends of segments that others go on from.
    d_ends: Buffer,
    gradient: ChunkGradient,
}

impl Scratch {
    fn new(plan: Plan, cpu: &Cpu, longest: usize, parents: usize) -> Self {
        let take = |words: usize| cpu.pool().take(words);
        let (size, dv) = (plan.heads.state(), plan.heads.value_dim);
        Scratch {
            work: Work::new(plan, cpu),
            states: take(longest * size),
            p: take(longest * CHUNK * dv),
            d_state: take(size),
            d_ends: take(parents * size),
            gradient: ChunkGradient::new(plan, cpu),
        }
    }

    /// States and `P` of a tree's chunks for value head `h`.
    fn states(&mut self, x: &Inputs<'_>, tree: Range<usize>, h: usize) {
        let Scratch { work, states, p, .. } = self;
        let (heads, segments) = (x.x.heads, x.x.segments);
        let size = heads.state();
        for s in tree {
            for (at, chunk) in (x.chunk_of[s]..).zip(chunks(&segments[s])) {
                let before = x.before(s, at);
                let (states, behind) = states.f32_mut().split_at_mut(at * size);
                work.load_keys(x.x, h / heads.group(), chunk, false);
                work.load_decays(x.x, h);
                if let Some(before) = before {
                    work.pack_state(&states[before * size..][..size]);
                }
                work.solve(x.x, h, before.is_some());
                let count = chunk.n * heads.value_dim;
                p.f32_mut()[at * CHUNK * heads.value_dim..][..count].copy_from_slice(&work.p.f32()[..count]);
                if !chunk.last || x.numbers[s].is_some() {
                    let behind = &mut behind[..size];
                    if let Some(before) = before {
                        behind.copy_from_slice(&states[before * size..][..size]);
                    }
                    work.advance(before.is_some(), behind);
                }
            }
        }
    }

    /// Gradients of a tree for value head `h`.
    fn gradients(&mut self, x: &Inputs<'_>, tree: Range<usize>, h: usize) {
        let Scratch { work, states, p, d_state, d_ends, gradient } = self;
        let (heads, segments) = (x.x.heads, x.x.segments);
        let size = heads.state();
        let d_state = &mut d_state.f32_mut()[..size];
        // Whether a child has left its gradient; every parent has one, and they come before it.
        let mut summed = vec![false; segments[tree.clone()].len()];
        for s in tree.clone().rev() {
            let mut known = false;
            if let Some(number) = x.numbers[s] {
                d_state.copy_from_slice(&d_ends.f32()[number * size..][..size]);
                known = true;
            }
            for (i, chunk) in chunks(&segments[s]).enumerate().rev() {
                let at = x.chunk_of[s] + i;
                let before = x.before(s, at);
                work.load_keys(x.x, h / heads.group(), chunk, true);
                work.load_decays(x.x, h);
                let count = chunk.n * heads.value_dim;
                work.p.f32_mut()[..count].copy_from_slice(&p.f32()[at * CHUNK * heads.value_dim..][..count]);
                let before = before.map(|before| &states.f32()[before * size..][..size]);
                gradient.make(work, Mat::head(x.d_o, h, heads.value_dim), before, (d_state, known));
                x.write(work, gradient, h);
                known = true;
            }
            if let Some((parent, number)) = segments[s].parent.and_then(|p| Some((p, x.numbers[p]?))) {
                let sum = &mut d_ends.f32_mut()[number * size..][..size];
                match std::mem::replace(&mut summed[parent - tree.start], true) {
                    true => add(work.plan.tiles.isa, d_state, sum),
                    false => sum.copy_from_slice(d_state),
                }
            }
        }
    }
}

impl Inputs<'_> {
    /// The chunk of the tree before chunk `at`, which is of segment `s`.
    fn before(&self, s: usize, at: usize) -> Option<usize> {
        let segments = self.x.segments;
        match segments[s].parent {
            _ if at > self.chunk_of[s] => Some(at - 1),
            parent => parent.map(|parent| self.chunk_of[parent] + chunks(&segments[parent]).len() - 1),
        }
    }

    /// A chunk's gradients to their places: those of a key head are sums over its value heads, in their order.
    fn write(&self, w: &Work, gradient: &mut ChunkGradient, h: usize) {
        let (heads, isa) = (self.x.heads, w.plan.tiles.isa);
        let (g, first) = (h / heads.group(), h.is_multiple_of(heads.group()));
        let ChunkGradient { dq, dk, rows, d_beta, dc, .. } = gradient;
        let (key, value, n) = (heads.key_dim, heads.value_dim, w.chunk.n);
        scale(isa, &mut dq.f32_mut()[..n * key], heads.scale);
        let mut dg = 0.0;
        for i in (0..n).rev() {
            let row = w.chunk.row + i;
            for (from, to) in [(&*dq, &self.dq), (&*dk, &self.dk)] {
                let at = (row * heads.k + g) * key;
                // SAFETY: the task owns these rows of its key head.
                let (from, to) = (&from.f32()[i * key..][..key], unsafe { to.slice(at..at + key) });
                if first {
                    to.copy_from_slice(from);
                } else {
                    add(isa, from, to);
                }
            }
            dg += dc[i];
            let at = row * heads.v + h;
            let z = &rows.f32()[(n + i) * value..][..value];
            // SAFETY: the task owns these rows of its value heads.
            unsafe {
                self.dv.slice(at * value..(at + 1) * value).copy_from_slice(z);
                self.dg.slice(at..at + 1)[0] = dg;
                self.dbeta.slice(at..at + 1)[0] = d_beta[i];
            }
        }
    }
}
