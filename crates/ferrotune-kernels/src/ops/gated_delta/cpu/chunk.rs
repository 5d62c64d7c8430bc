//! What forward and backward do alike for a chunk: its triangles, its updates, and the state behind it.

use super::rows::{BLOCK, add_scaled_rows, decays, lower, scale, scaled_rows, substitute};
use super::{CHUNK, Chunk, GatedDelta, Plan};
use crate::cpu::Cpu;
use crate::cpu::left::columns_to_words;
use crate::cpu::microkernel::{Mode, Part};
use crate::cpu::words::Mat;
use crate::tensor::Buffer;

/// A thread's buffers for a chunk of one key head and one of its value heads at a time.
pub(super) struct Work {
    pub(super) plan: Plan,
    pub(super) chunk: Chunk,
    /// The scaled queries and the keys `[n, dk]`.
    pub(super) q: Buffer,
    pub(super) k: Buffer,
    /// The keys `[dk, n]`.
    pub(super) k_turned: Buffer,
    /// `Q Kt` and `K Kt` up to the diagonal.
    pub(super) qk: Buffer,
    kk: Buffer,
    pub(super) beta: [f32; CHUNK],
    /// `e^c_i`: what a token sees of the state before the chunk.
    pub(super) since_start: [f32; CHUNK],
    /// `e^(c_n - c_i)`: what is left of a token's update behind the chunk.
    pub(super) until_end: [f32; CHUNK],
    /// `e^c_n`.
    pub(super) whole: f32,
    /// `D`.
    pub(super) between: Buffer,
    /// `-A`.
    pub(super) less: Buffer,
    /// `P` and `U` `[n, dv]`.
    pub(super) p: Buffer,
    pub(super) u: Buffer,
    /// A product before it is scaled.
    pub(super) product: Buffer,
    /// The right operand of a product: a state, a matrix of the chunk, or rows of it.
    pub(super) right: Buffer,
    pub(super) scratch: Buffer,
}

impl Work {
    pub(super) fn new(plan: Plan, cpu: &Cpu) -> Self {
        let take = |words: usize| cpu.pool().take(words);
        let (dk, dv) = (plan.heads.key_dim, plan.heads.value_dim);
        let (tiles, widest) = (plan.tiles, dk.max(dv));
        let rights =
            [(dv, dk), (dk, dv), (widest, CHUNK), (CHUNK, widest)].map(|(n, k)| tiles.right_words(n, k));
        Work {
            plan,
            chunk: Chunk { row: 0, n: 0, last: true },
            q: take(CHUNK * dk),
            k: take(CHUNK * dk),
            k_turned: take(CHUNK * dk),
            qk: take(CHUNK * CHUNK),
            kk: take(CHUNK * CHUNK),
            beta: [0.0; CHUNK],
            since_start: [0.0; CHUNK],
            until_end: [0.0; CHUNK],
            whole: 1.0,
            between: take(CHUNK * CHUNK),
            less: take(CHUNK * CHUNK),
            p: take(CHUNK * dv),
            u: take(CHUNK * dv),
            product: take(CHUNK * widest),
            right: take(rights.into_iter().max().unwrap_or(0)),
            scratch: take(tiles.scratch_words(widest).max(tiles.right_words(dv, BLOCK))),
        }
    }

    /// Reads the chunk's keys of head `g`, and its queries if they are `wanted`.
    pub(super) fn load_keys(&mut self, x: GatedDelta<'_>, g: usize, chunk: Chunk, wanted: bool) {
        let (Plan { tiles, heads, asks }, dk, n) = (self.plan, self.plan.heads.key_dim, chunk.n);
        self.chunk = chunk;
        let k = &mut self.k.f32_mut()[..n * dk];
        read(Mat::head(x.k, g, dk), &self.plan, chunk, dk, k);
        let right = self.right.f32_mut();
        tiles.pack_columns(Mat::F32(k, dk), (0, n), dk, self.scratch.f32_mut(), right);
        let turned = self.k_turned.f32_mut();
        columns_to_words(tiles.isa, tiles.kind, Mat::F32(k, dk), 0..dk, n, turned);
        let mode = Mode::SET.of(Part::LowerC);
        if asks {
            tiles.multiply(dk, (k, dk), right, (self.kk.f32_mut(), CHUNK), (n, n), mode);
        }
        if wanted {
            let q = &mut self.q.f32_mut()[..n * dk];
            read(Mat::head(x.q, g, dk), &self.plan, chunk, dk, q);
            scale(tiles.isa, q, heads.scale);
            tiles.multiply(dk, (q, dk), right, (self.qk.f32_mut(), CHUNK), (n, n), mode);
        }
    }

    /// Reads decays and shares of value head `h`; makes `D` and `-A`.
    pub(super) fn load_decays(&mut self, x: GatedDelta<'_>, h: usize) {
        let (isa, n, width) = (self.plan.tiles.isa, self.chunk.n, self.plan.heads.v);
        let (mut sums, mut sum) = ([0.0f64; CHUNK], 0.0);
        for (i, s) in sums.iter_mut().enumerate().take(n) {
            let at = (self.chunk.row + i) * width + h;
            sum += x.g.host_f32()[at] as f64;
            *s = sum;
            self.beta[i] = x.beta.host_f32()[at];
        }
        decays(isa, &sums[..n], 1.0, 0.0, &mut self.since_start);
        decays(isa, &sums[..n], -1.0, sum, &mut self.until_end);
        self.whole = self.since_start[n - 1];
        let between = self.between.f32_mut();
        for i in 0..n {
            let (row, rest) = between[i * CHUNK..][..n].split_at_mut(i + 1);
            decays(isa, &sums[..i + 1], -1.0, sums[i], row);
            rest.fill(0.0);
        }
        if self.plan.asks {
            lower(isa, between, self.kk.f32(), -1.0, false, n, self.less.f32_mut());
        }
    }

    /// Makes a `[dk, dv]` state the right operand.
    pub(super) fn pack_state(&mut self, state: &[f32]) {
        let (dk, dv) = (self.plan.heads.key_dim, self.plan.heads.value_dim);
        self.plan.tiles.pack_rows(Mat::F32(state, dv), (0, dk), dv, self.right.f32_mut());
    }

    /// `P = V - E K S - A U` and `U` of value head `h`; the right operand is `S`, unless that is zero or no token asks.
    pub(super) fn solve(&mut self, x: GatedDelta<'_>, h: usize, state: bool) {
        let (Plan { tiles, heads, asks }, n) = (self.plan, self.chunk.n);
        let (dk, dv) = (heads.key_dim, heads.value_dim);
        let (p, u) = (&mut self.p.f32_mut()[..n * dv], &mut self.u.f32_mut()[..n * dv]);
        read(Mat::head(x.v, h, dv), &self.plan, self.chunk, dv, p);
        if !asks {
            return scaled_rows(tiles.isa, p, &self.beta, 1.0, dv, u);
        }
        if state {
            let held = &mut self.product.f32_mut()[..n * dv];
            let right = self.right.f32();
            tiles.multiply(dk, (self.k.f32(), dk), right, (held, dv), (n, dv), Mode::SET);
            add_scaled_rows(tiles.isa, held, &self.since_start, -1.0, dv, p);
        }
        let (less, block) = (self.less.f32(), self.scratch.f32_mut());
        for first in (0..n).step_by(BLOCK) {
            let end = (first + BLOCK).min(n);
            let (beta, rows) = (&self.beta[first..end], first * dv..end * dv);
            substitute(
                tiles.isa,
                &less[first * CHUNK + first..],
                beta,
                false,
                dv,
                &mut p[rows.clone()],
                &mut u[rows],
            );
            if end < n {
                tiles.pack_rows(Mat::F32(u, dv), (first, end - first), dv, block);
                let left = (&less[end * CHUNK + first..], CHUNK);
                let later = (&mut p[end * dv..], dv);
                tiles.multiply(end - first, left, block, later, (n - end, dv), Mode::ADD);
            }
        }
    }

    /// The state behind the chunk, in place: `e^c_n S + (F K)t U`; what is there counts if it is `known`.
    pub(super) fn advance(&mut self, known: bool, state: &mut [f32]) {
        let (Plan { tiles, heads, .. }, n) = (self.plan, self.chunk.n);
        let (dk, dv) = (heads.key_dim, heads.value_dim);
        let left = &mut self.product.f32_mut()[..n * dv];
        scaled_rows(tiles.isa, &self.u.f32()[..n * dv], &self.until_end, 1.0, dv, left);
        tiles.pack_rows(Mat::F32(left, dv), (0, n), dv, self.right.f32_mut());
        let mode = if known { Mode::ADD } else { Mode::SET };
        if known {
            scale(tiles.isa, state, self.whole);
        }
        tiles.multiply(n, (self.k_turned.f32(), n), self.right.f32(), (state, dv), (dk, dv), mode);
    }
}

/// Reads a chunk's rows of a head.
pub(super) fn read(mat: Mat<'_>, plan: &Plan, chunk: Chunk, width: usize, out: &mut [f32]) {
    for (i, out) in out.chunks_exact_mut(width).enumerate() {
        mat.read(plan.tiles.isa, chunk.row + i, 0, out);
    }
}
