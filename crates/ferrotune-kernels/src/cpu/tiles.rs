//! Products of small matrices that a thread makes by itself: packing and multiplying without a plan for the whole.

use super::Isa;
use super::microkernel::{Micro, Mode, PANEL, Part, Product, multiply, pick};
use super::panel::{Packing, pack_panel, scratch_words};
use super::words::{Mat, Words};
use crate::dtype::Precision;

/// The micro-kernel of a precision, and what its operands are made of.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) isa: Isa,
    pub(crate) kind: Words,
    micro: Micro,
}

impl Tiles {
    pub(crate) fn new(isa: Isa, precision: Precision) -> Self {
        let micro = pick(isa, precision == Precision::Bf16);
        Tiles { isa, micro, kind: Words::of(micro, precision) }
    }

    /// Words of a right operand of `cols` columns and a reduction of `k`.
    pub(crate) fn right_words(&self, cols: usize, k: usize) -> usize {
        cols.next_multiple_of(PANEL) * self.kind.count(k)
    }

    /// Words of a left operand of `m` rows and a reduction of `k`.
    pub(crate) fn left_words(&self, m: usize, k: usize) -> usize {
        m * self.kind.count(k)
    }

    /// Words of scratch memory that [`Tiles::pack_columns`] needs for a reduction of up to `k`.
    pub(crate) fn scratch_words(&self, k: usize) -> usize {
        scratch_words(self.kind, k)
    }

    fn packing(&self) -> Packing {
        Packing { isa: self.isa, micro: self.micro, kind: self.kind }
    }

    /// Packs `k` values of rows `row..row + n` as the columns of a right operand.
    pub(crate) fn pack_columns(
        &self,
        mat: Mat<'_>,
        (row, n): (usize, usize),
        k: usize,
        scratch: &mut [f32],
        out: &mut [f32],
    ) {
        let step = PANEL * self.kind.count(k);
        for (first, out) in (0..n).step_by(PANEL).zip(out.chunks_mut(step)) {
            let columns = (row + first, (n - first).min(PANEL));
            pack_panel(self.packing(), (mat, false), columns, (0, k), scratch, out);
        }
    }

    /// Packs `width` values of rows `row..row + n` as the reduction of a right operand: they are its columns.
    pub(crate) fn pack_rows(&self, mat: Mat<'_>, (row, n): (usize, usize), width: usize, out: &mut [f32]) {
        let step = PANEL * self.kind.count(n);
        for (first, out) in (0..width).step_by(PANEL).zip(out.chunks_mut(step)) {
            let columns = (first, (width - first).min(PANEL));
            pack_panel(self.packing(), (mat, true), columns, (row, n), &mut [], out);
        }
    }

    /// `C [m, n] (+)= A B` for a reduction of `k` values; rows of A and of C lie `lda` and `ldc` words apart.
    pub(crate) fn multiply(
        &self,
        k: usize,
        (a, lda): (&[f32], usize),
        b: &[f32],
        (c, ldc): (&mut [f32], usize),
        (m, n): (usize, usize),
        mode: Mode,
    ) {
        let words = self.kind.count(k);
        for (first, b) in (0..n).step_by(PANEL).zip(b.chunks(PANEL * words)) {
            // Above the diagonal of a lower triangle there are no rows of this panel.
            let above = if mode.part == Part::LowerC { first } else { 0 };
            if above >= m {
                break;
            }
            let (a, c) = (&a[above * lda..], &mut c[above * ldc + first..]);
            let (rows, cols) = (m - above, (n - first).min(PANEL));
            multiply(self.micro, Product { words, a, lda, b, c, ldc, rows, cols, mode });
        }
    }
}
