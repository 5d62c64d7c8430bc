use super::chunk::Work;
use super::rows::{lower, scaled_rows};
use super::{CHUNK, Cached, GatedDelta, HEADS, Plan, Task, chunks, parents, tasks};
use crate::cpu::microkernel::{Mode, Part};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut};
use crate::tensor::{Buffer, Tensor};

/// A thread's buffers.
struct Scratch {
    work: Work,
    /// The states of the task's value heads.
    states: Buffer,
    /// The same at the ends of segments that others go on from.
    ends: Buffer,
    m: Buffer,
    o: Buffer,
}

pub(in super::super) fn forward(cpu: &Cpu, x: GatedDelta<'_>, cached: Option<Cached<'_>>, o: &mut Tensor) {
    let (heads, segments) = (x.heads, x.segments);
    let plan = Plan::new(cpu, x);
    let (dv, size) = (heads.value_dim, heads.state());
    let most_heads = heads.group().min(HEADS);
    let (numbers, most) = parents(segments);
    let tasks = tasks(segments, heads);
    let (o, width) = (SharedMut::new(o.host_f32_mut()), heads.v * dv);
    let cached = cached.map(|c| (SharedMut::new(c.states.host_f32_mut()), c.sequences));
    let scratch = || Scratch {
        work: Work::new(plan, cpu),
        states: cpu.pool().take(most_heads * size),
        ends: cpu.pool().take(most * most_heads * size),
        m: cpu.pool().take(CHUNK * CHUNK),
        o: cpu.pool().take(CHUNK * dv),
    };
    cpu.threads().run_with(tasks.len(), scratch, |scratch, task| {
        let Task { tree, g, heads: own, .. } = tasks[task].clone();
        let Scratch { work, states, ends, m, o: rows } = scratch;
        let of_task = own.len() * size;
        let states = &mut states.f32_mut()[..of_task];
        for s in tree {
            let segment = &segments[s];
            let end = |s: usize| numbers[s].map(|number| number * of_task..(number + 1) * of_task);
            let cached = cached.as_ref().map(|(states, sequences)| {
                let at = (sequences[s] * heads.v + own.start) * size;
                // SAFETY: no other segment has this sequence, no other task these heads of it.
                unsafe { states.slice(at..at + of_task) }
            });
            let from = match &cached {
                Some(states) => Some(&**states),
                None => segment.parent.and_then(end).map(|end| &ends.f32()[end]),
            };
            let mut known = from.is_some();
            if let Some(from) = from {
                states.copy_from_slice(from);
            }
            let keep = cached.is_some() || numbers[s].is_some();
            for chunk in chunks(segment) {
                work.load_keys(x, g, chunk, true);
                for (h, state) in own.clone().zip(states.chunks_exact_mut(size)) {
                    work.load_decays(x, h);
                    if known {
                        work.pack_state(state);
                    }
                    let rows = &mut rows.f32_mut()[..chunk.n * dv];
                    if known {
                        work.seen(rows);
                    }
                    work.solve(x, h, known);
                    work.output(known, m.f32_mut(), rows);
                    for (i, row) in rows.chunks_exact(dv).enumerate() {
                        let at = (chunk.row + i) * width + h * dv;
                        // SAFETY: the task owns these rows of its heads.
                        unsafe { o.slice(at..at + dv) }.copy_from_slice(row);
                    }
                    if keep || !chunk.last {
                        work.advance(known, state);
                    }
                }
                known = true;
            }
            if let Some(end) = end(s) {
                ends.f32_mut()[end].copy_from_slice(states);
            }
            if let Some(cached) = cached {
                cached.copy_from_slice(states);
            }
        }
    });
}

impl Work {
    /// `E Q S`; the right operand is `S`.
    fn seen(&mut self, o: &mut [f32]) {
        let (Plan { tiles, heads, .. }, n) = (self.plan, self.chunk.n);
        let (dk, dv) = (heads.key_dim, heads.value_dim);
        let product = &mut self.product.f32_mut()[..n * dv];
        tiles.multiply(dk, (self.q.f32(), dk), self.right.f32(), (product, dv), (n, dv), Mode::SET);
        scaled_rows(tiles.isa, product, &self.since_start, 1.0, dv, o);
    }

    /// `O = E Q S + M U`; the first term is there if the state is `known`.
    fn output(&mut self, known: bool, m: &mut [f32], o: &mut [f32]) {
        let (Plan { tiles, heads, .. }, n) = (self.plan, self.chunk.n);
        let (dv, right) = (heads.value_dim, self.right.f32_mut());
        tiles.pack_rows(Mat::F32(self.u.f32(), dv), (0, n), dv, right);
        lower(tiles.isa, self.between.f32(), self.qk.f32(), 1.0, true, n, m);
        let mode = if known { Mode::ADD } else { Mode::SET };
        tiles.multiply(n, (m, CHUNK), right, (o, dv), (n, dv), mode.of(Part::LowerA));
    }
}
