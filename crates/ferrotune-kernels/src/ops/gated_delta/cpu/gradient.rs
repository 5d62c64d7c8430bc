//! The gradients of one chunk, by the formulas at the top of the op.

use super::chunk::{Work, read};
use super::rows::{
    BLOCK, add, add_dots, add_scaled_rows, inner, lower, row_less_column, scale, scaled_rows, substitute,
};
use super::{CHUNK, Plan};
use crate::cpu::Cpu;
use crate::cpu::left::columns_to_words;
use crate::cpu::microkernel::{Mode, Part};
use crate::cpu::words::Mat;
use crate::tensor::Buffer;

/// Buffers, in which the gradients stand afterwards.
pub(super) struct ChunkGradient {
    /// `dO`, then `Z`, which is dV: `[2 n, dv]`.
    pub(super) rows: Buffer,
    pub(super) d_beta: [f32; CHUNK],
    pub(super) dc: [f32; CHUNK],
    /// Of the scaled queries `[n, dk]`.
    pub(super) dq: Buffer,
    /// Of the keys `[n, dk]`.
    pub(super) dk: Buffer,
    /// `X` `[n, dv]`.
    x: Buffer,
    m: Buffer,
    /// `dO Ut` and `Z Ut` up to the diagonal.
    dm: Buffer,
    zu: Buffer,
    /// A triangle, and one that is turned (its rows as long as the chunk).
    triangle: Buffer,
    turned: Buffer,
    /// `dO St`, then `Z St`: `[2 n, dk]`.
    through: Buffer,
    /// The queries `[dk, n]`.
    q_turned: Buffer,
}

impl ChunkGradient {
    pub(super) fn new(plan: Plan, cpu: &Cpu) -> Self {
        let take = |words: usize| cpu.pool().take(words);
        let (dk, dv) = (plan.heads.key_dim, plan.heads.value_dim);
        ChunkGradient {
            rows: take(2 * CHUNK * dv),
            d_beta: [0.0; CHUNK],
            dc: [0.0; CHUNK],
            dq: take(CHUNK * dk),
            dk: take(CHUNK * dk),
            x: take(CHUNK * dv),
            m: take(CHUNK * CHUNK),
            dm: take(CHUNK * CHUNK),
            zu: take(CHUNK * CHUNK),
            triangle: take(CHUNK * CHUNK),
            turned: take(CHUNK * CHUNK),
            through: take(2 * CHUNK * dk),
            q_turned: take(CHUNK * dk),
        }
    }

    /// Makes the gradients of a chunk whose keys, decays and `P` are loaded.
    ///
    /// `before` is the state before it, None if zero. `d_state` is the gradient of the state behind it (zero if not `known`) and
    /// becomes that of the state before it, if there is one.
    pub(super) fn make(
        &mut self,
        w: &mut Work,
        d_o: Mat<'_>,
        before: Option<&[f32]>,
        (d_state, known): (&mut [f32], bool),
    ) {
        let (Plan { tiles, heads, .. }, n) = (w.plan, w.chunk.n);
        let dv = heads.value_dim;
        read(d_o, &w.plan, w.chunk, dv, &mut self.rows.f32_mut()[..n * dv]);
        scaled_rows(tiles.isa, &w.p.f32()[..n * dv], &w.beta, 1.0, dv, w.u.f32_mut());
        let behind = known.then_some(&*d_state);
        self.updates(w, behind);
        self.solve(w);
        self.d_beta.fill(0.0);
        add_dots(tiles.isa, &w.p.f32()[..n * dv], self.x.f32(), 1.0, dv, &mut self.d_beta);
        self.triangles(w);
        self.through_states(w, before, behind);
        self.through_triangles(w, before.is_some(), known);
        if before.is_some() {
            self.state(w, known, d_state);
        }
    }

    /// `dU = Mt dO + F K dS'`.
    fn updates(&mut self, w: &mut Work, behind: Option<&[f32]>) {
        let (Plan { tiles, heads, .. }, n) = (w.plan, w.chunk.n);
        let (dk, dv) = (heads.key_dim, heads.value_dim);
        let x = &mut self.x.f32_mut()[..n * dv];
        let mode = match behind {
            Some(d_state) => {
                w.pack_state(d_state);
                let product = &mut w.product.f32_mut()[..n * dv];
                tiles.multiply(dk, (w.k.f32(), dk), w.right.f32(), (product, dv), (n, dv), Mode::SET);
                scaled_rows(tiles.isa, product, &w.until_end, 1.0, dv, x);
                Mode::ADD
            }
            None => Mode::SET,
        };
        let (m, turned) = (self.m.f32_mut(), self.turned.f32_mut());
        lower(tiles.isa, w.between.f32(), w.qk.f32(), 1.0, true, n, m);
        columns_to_words(tiles.isa, tiles.kind, Mat::F32(m, CHUNK), 0..n, n, turned);
        tiles.pack_rows(Mat::F32(self.rows.f32(), dv), (0, n), dv, w.right.f32_mut());
        tiles.multiply(n, (turned, n), w.right.f32(), (x, dv), (n, dv), mode.of(Part::UpperA));
    }

    /// `X = dU - At Z` and `Z = diag(b) X`, from the last block on.
    fn solve(&mut self, w: &mut Work) {
        let (Plan { tiles, heads, asks }, n) = (w.plan, w.chunk.n);
        let (isa, dv) = (tiles.isa, heads.value_dim);
        let (x, z) = (&mut self.x.f32_mut()[..n * dv], &mut self.rows.f32_mut()[n * dv..2 * n * dv]);
        if !asks {
            return scaled_rows(isa, x, &w.beta, 1.0, dv, z);
        }
        let (less, right, turned) = (w.less.f32(), w.scratch.f32_mut(), self.turned.f32_mut());
        for first in (0..n).step_by(BLOCK).rev() {
            let end = (first + BLOCK).min(n);
            let (count, beta, rows) = (end - first, &w.beta[first..end], first * dv..end * dv);
            substitute(
                isa,
                &less[first * CHUNK + first..],
                beta,
                true,
                dv,
                &mut x[rows.clone()],
                &mut z[rows],
            );
            if first > 0 {
                tiles.pack_rows(Mat::F32(z, dv), (first, count), dv, right);
                columns_to_words(
                    isa,
                    tiles.kind,
                    Mat::F32(&less[first * CHUNK..], CHUNK),
                    0..first,
                    count,
                    turned,
                );
                tiles.multiply(count, (turned, count), right, (x, dv), (first, dv), Mode::ADD);
            }
        }
    }

    /// `dM = dO Ut`, `Z Ut = -dA`, and what `G` says about the exponents.
    fn triangles(&mut self, w: &mut Work) {
        let (Plan { tiles, heads, asks }, n) = (w.plan, w.chunk.n);
        let (dv, right) = (heads.value_dim, w.right.f32_mut());
        tiles.pack_columns(Mat::F32(w.u.f32(), dv), (0, n), dv, w.scratch.f32_mut(), right);
        let (d_o, z) = self.rows.f32().split_at(n * dv);
        for (rows, to) in [(d_o, &mut self.dm), (z, &mut self.zu)].into_iter().take(1 + asks as usize) {
            let mode = Mode::SET.of(Part::LowerC);
            tiles.multiply(dv, (rows, dv), right, (to.f32_mut(), CHUNK), (n, n), mode);
        }
        let mut columns = [0.0; CHUNK];
        self.dc.fill(0.0);
        // The signs of -dA and -A make one.
        for (gradient, value) in
            [(&self.dm, &self.m), (&self.zu, &w.less)].into_iter().take(1 + asks as usize)
        {
            row_less_column(tiles.isa, gradient.f32(), value.f32(), n, &mut columns, &mut self.dc);
        }
    }

    /// What goes through the state before the chunk and the one behind it: the first terms of dQ and dK, which also say what
    /// the exponents get.
    fn through_states(&mut self, w: &mut Work, before: Option<&[f32]>, behind: Option<&[f32]>) {
        let (Plan { tiles, heads, asks }, n) = (w.plan, w.chunk.n);
        let (isa, dk, dv) = (tiles.isa, heads.key_dim, heads.value_dim);
        let (dq, d_key) = (&mut self.dq.f32_mut()[..n * dk], &mut self.dk.f32_mut()[..n * dk]);
        if let Some(state) = before {
            let many = n + n * asks as usize;
            let through = &mut self.through.f32_mut()[..many * dk];
            tiles.pack_columns(Mat::F32(state, dv), (0, dk), dv, w.scratch.f32_mut(), w.right.f32_mut());
            let (rows, right) = (self.rows.f32(), w.right.f32());
            tiles.multiply(dv, (rows, dv), right, (through, dk), (many, dk), Mode::SET);
            let (by_query, by_key) = through.split_at(n * dk);
            scaled_rows(isa, by_query, &w.since_start, 1.0, dk, dq);
            add_dots(isa, dq, w.q.f32(), 1.0, dk, &mut self.dc);
            if asks {
                scaled_rows(isa, by_key, &w.since_start, -1.0, dk, d_key);
                add_dots(isa, d_key, w.k.f32(), 1.0, dk, &mut self.dc);
            }
        }
        if let Some(d_state) = behind {
            tiles.pack_columns(Mat::F32(d_state, dv), (0, dk), dv, w.scratch.f32_mut(), w.right.f32_mut());
            let product = &mut w.product.f32_mut()[..n * dk];
            tiles.multiply(dv, (w.u.f32(), dv), w.right.f32(), (product, dk), (n, dk), Mode::SET);
            let mut dots = [0.0; CHUNK];
            add_dots(isa, product, w.k.f32(), 1.0, dk, &mut dots);
            let mut all = before.map_or(0.0, |state| w.whole * inner(isa, state, d_state));
            for ((dc, dot), left) in self.dc.iter_mut().zip(dots).zip(w.until_end).take(n) {
                *dc -= left * dot;
                all += left * dot;
            }
            self.dc[n - 1] += all;
            match before {
                Some(_) if asks => add_scaled_rows(isa, product, &w.until_end, 1.0, dk, d_key),
                _ => scaled_rows(isa, product, &w.until_end, 1.0, dk, d_key),
            }
        }
    }

    /// The terms of dQ and dK through the triangles, added to what is there.
    fn through_triangles(&mut self, w: &mut Work, before: bool, behind: bool) {
        let (Plan { tiles, heads, asks }, n) = (w.plan, w.chunk.n);
        let (isa, kind, dk) = (tiles.isa, tiles.kind, heads.key_dim);
        let mode = |there: bool| if there { Mode::ADD } else { Mode::SET };
        let (triangle, turned) = (self.triangle.f32_mut(), self.turned.f32_mut());
        let (dq, d_key, between) = (self.dq.f32_mut(), self.dk.f32_mut(), w.between.f32());
        tiles.pack_rows(Mat::F32(w.k.f32(), dk), (0, n), dk, w.right.f32_mut());
        let mut key_mode = mode(before && asks || behind);
        if asks {
            lower(isa, between, self.zu.f32(), -1.0, false, n, triangle);
            columns_to_words(isa, kind, Mat::F32(triangle, CHUNK), 0..n, n, turned);
            for (turned, row) in turned.chunks_exact_mut(n).zip(triangle.chunks(CHUNK)) {
                add(isa, &row[..n], turned);
            }
            tiles.multiply(n, (turned, n), w.right.f32(), (d_key, dk), (n, dk), key_mode);
            key_mode = Mode::ADD;
        }

        lower(isa, between, self.dm.f32(), 1.0, true, n, triangle);
        let lower = mode(before).of(Part::LowerA);
        tiles.multiply(n, (triangle, CHUNK), w.right.f32(), (dq, dk), (n, dk), lower);
        columns_to_words(isa, kind, Mat::F32(triangle, CHUNK), 0..n, n, turned);
        tiles.pack_rows(Mat::F32(w.q.f32(), dk), (0, n), dk, w.right.f32_mut());
        let upper = key_mode.of(Part::UpperA);
        tiles.multiply(n, (turned, n), w.right.f32(), (d_key, dk), (n, dk), upper);
    }

    /// `dS = e^c_n dS' + (E Q)t dO - (E K)t Z`, in the place of `dS'`.
    fn state(&mut self, w: &mut Work, known: bool, d_state: &mut [f32]) {
        let (Plan { tiles, heads, asks }, n) = (w.plan, w.chunk.n);
        let (isa, dk, dv) = (tiles.isa, heads.key_dim, heads.value_dim);
        let mut mode = Mode::SET;
        if known {
            scale(isa, d_state, w.whole);
            mode = Mode::ADD;
        }
        let q_turned = self.q_turned.f32_mut();
        columns_to_words(isa, tiles.kind, Mat::F32(w.q.f32(), dk), 0..dk, n, q_turned);
        let (d_o, z) = self.rows.f32()[..2 * n * dv].split_at(n * dv);
        let terms = [(&*q_turned, d_o, 1.0), (w.k_turned.f32(), z, -1.0)];
        for (left, rows, sign) in terms.into_iter().take(1 + asks as usize) {
            let product = &mut w.product.f32_mut()[..n * dv];
            scaled_rows(isa, rows, &w.since_start, sign, dv, product);
            tiles.pack_rows(Mat::F32(product, dv), (0, n), dv, w.right.f32_mut());
            tiles.multiply(n, (left, n), w.right.f32(), (d_state, dv), (dk, dv), mode);
            mode = Mode::ADD;
        }
    }
}
