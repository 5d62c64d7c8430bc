//! Head by head: states and `P` of all chunks of the tree first, then the chunks from the last to the first.

use super::chunk::Work;
use super::gradient::ChunkGradient;
use super::rows::{add, scale};
use super::{CHUNK, GatedDelta, Gradients, Plan, Task, chunks, parents, parts, tasks, trees};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, add_blocks};
use crate::tensor::{Buffer, Tensor};

/// What all tasks read, and where their gradients go.
struct Inputs<'a> {
    x: GatedDelta<'a>,
    d_o: &'a Tensor,
    /// Each segment's number among those of its tree that others go on from.
    numbers: &'a [Option<usize>],
    /// Each segment's first chunk in its tree.
    chunk_of: &'a [usize],
    /// Of a key head as many blocks as it has tasks.
    dq: SharedMut<'a, f32>,
    dk: SharedMut<'a, f32>,
    dv: &'a SharedMut<'a, f32>,
    dg: &'a SharedMut<'a, f32>,
    dbeta: &'a SharedMut<'a, f32>,
}

pub(in super::super) fn backward(cpu: &Cpu, x: GatedDelta<'_>, d_o: &Tensor, gradients: &mut Gradients) {
    let (heads, segments) = (x.heads, x.segments);
    let plan = Plan::new(cpu, x);
    let (numbers, most) = parents(segments);
    let (mut chunk_of, mut longest) = (Vec::new(), 0);
    for tree in trees(segments) {
        let mut count = 0;
        for s in &segments[tree] {
            chunk_of.push(count);
            count += chunks(s).len();
        }
        longest = longest.max(count);
    }
    let (tasks, parts) = (tasks(segments, heads), parts(heads));
    let Gradients { dq, dk, dv, dg, dbeta } = gradients;
    let [dv, dg, dbeta] = [dv, dg, dbeta].map(|t| SharedMut::new(t.host_f32_mut()));
    let run = |dq: &mut [f32], dk: &mut [f32]| {
        let [dq, dk] = [dq, dk].map(SharedMut::new);
        let inputs = Inputs {
            x,
            d_o,
            numbers: &numbers,
            chunk_of: &chunk_of,
            dq,
            dk,
            dv: &dv,
            dg: &dg,
            dbeta: &dbeta,
        };
        let scratch = || Scratch::new(plan, cpu, longest, most);
        cpu.threads().run_with(tasks.len(), scratch, |scratch, task| {
            for h in tasks[task].heads.clone() {
                scratch.states(&inputs, &tasks[task], h);
                scratch.gradients(&inputs, &tasks[task], h);
            }
        });
    };
    if parts == 1 {
        return run(dq.host_f32_mut(), dk.host_f32_mut());
    }
    let mut wide = [(); 2].map(|()| cpu.pool().take(dq.len() * parts));
    let [wide_q, wide_k] = &mut wide;
    run(wide_q.f32_mut(), wide_k.f32_mut());
    for (wide, sum) in wide.iter().zip([dq, dk]) {
        add_blocks(cpu, wide.f32(), parts, heads.key_dim, sum);
    }
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
    fn states(&mut self, x: &Inputs<'_>, task: &Task, h: usize) {
        let Scratch { work, states, p, .. } = self;
        let (heads, segments) = (x.x.heads, x.x.segments);
        let size = heads.state();
        for s in task.tree.clone() {
            for (at, chunk) in (x.chunk_of[s]..).zip(chunks(&segments[s])) {
                let before = x.before(s, at);
                let (states, behind) = states.f32_mut().split_at_mut(at * size);
                work.load_keys(x.x, task.g, chunk, false);
                work.load_decays(x.x, h);
                if let Some(before) = before.filter(|_| work.plan.asks) {
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
    fn gradients(&mut self, x: &Inputs<'_>, task: &Task, h: usize) {
        let Scratch { work, states, p, d_state, d_ends, gradient } = self;
        let (heads, segments) = (x.x.heads, x.x.segments);
        let size = heads.state();
        let d_state = &mut d_state.f32_mut()[..size];
        // Whether a child has left its gradient; every parent has one, and they come before it.
        let mut summed = vec![false; segments[task.tree.clone()].len()];
        for s in task.tree.clone().rev() {
            let mut known = false;
            if let Some(number) = x.numbers[s] {
                d_state.copy_from_slice(&d_ends.f32()[number * size..][..size]);
                known = true;
            }
            for (i, chunk) in chunks(&segments[s]).enumerate().rev() {
                let at = x.chunk_of[s] + i;
                let before = x.before(s, at);
                work.load_keys(x.x, task.g, chunk, true);
                work.load_decays(x.x, h);
                let count = chunk.n * heads.value_dim;
                work.p.f32_mut()[..count].copy_from_slice(&p.f32()[at * CHUNK * heads.value_dim..][..count]);
                let before = before.map(|before| &states.f32()[before * size..][..size]);
                gradient.make(work, Mat::head(x.d_o, h, heads.value_dim), before, (d_state, known));
                x.write(work, gradient, task, h);
                known = true;
            }
            if let Some((parent, number)) = segments[s].parent.and_then(|p| Some((p, x.numbers[p]?))) {
                let sum = &mut d_ends.f32_mut()[number * size..][..size];
                match std::mem::replace(&mut summed[parent - task.tree.start], true) {
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
    fn write(&self, w: &Work, gradient: &mut ChunkGradient, task: &Task, h: usize) {
        let (heads, isa) = (self.x.heads, w.plan.tiles.isa);
        let (first, blocks) = (h == task.heads.start, heads.k * parts(heads));
        let ChunkGradient { dq, dk, rows, d_beta, dc, .. } = gradient;
        let (key, value, n) = (heads.key_dim, heads.value_dim, w.chunk.n);
        scale(isa, &mut dq.f32_mut()[..n * key], heads.scale);
        let mut dg = 0.0f64;
        for i in (0..n).rev() {
            let row = w.chunk.row + i;
            for (from, to) in [(&*dq, &self.dq), (&*dk, &self.dk)] {
                let at = (row * blocks + task.part) * key;
                // SAFETY: the task owns these rows of its block.
                let (from, to) = (&from.f32()[i * key..][..key], unsafe { to.slice(at..at + key) });
                if first {
                    to.copy_from_slice(from);
                } else {
                    add(isa, from, to);
                }
            }
            dg += dc[i] as f64;
            let at = row * heads.v + h;
            let z = &rows.f32()[(n + i) * value..][..value];
            // SAFETY: the task owns these rows of its value heads.
            unsafe {
                self.dv.slice(at * value..(at + 1) * value).copy_from_slice(z);
                self.dg.slice(at..at + 1)[0] = dg as f32;
                self.dbeta.slice(at..at + 1)[0] = d_beta[i];
            }
        }
    }
}
