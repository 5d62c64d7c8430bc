//! What all ways to multiply have in common: rows of blocks, and one to four vectors at a time.

use std::ops::Range;

use super::{FEW, Results};

/// One way to multiply the rows of one format with vectors that were prepared for it.
pub(super) trait RowProduct {
    /// The products of a row with all vectors; the order of a sum does not depend on their number.
    ///
    /// # Safety
    /// The instruction set of the implementation; the row is inside the weight; there are `M` vectors.
    unsafe fn row<const M: usize>(&mut self, row: usize) -> [f32; M];
}

/// The products of `m` vectors with some rows. It is compiled into its caller, and so for the caller's instruction set.
///
/// # Safety
/// The contract of [`RowProduct::row`] holds for every row of `rows`.
#[inline(always)]
pub(super) unsafe fn run<P: RowProduct>(product: &mut P, m: usize, rows: Range<usize>, out: &mut Results) {
    // SAFETY: contract of the function.
    unsafe {
        match m {
            1 => each::<P, 1>(product, rows, out),
            2 => each::<P, 2>(product, rows, out),
            3 => each::<P, 3>(product, rows, out),
            _ => each::<P, FEW>(product, rows, out),
        }
    }
}

/// # Safety
/// The contract of [`RowProduct::row`] holds for every row of `rows`.
#[inline(always)]
unsafe fn each<P: RowProduct, const M: usize>(product: &mut P, rows: Range<usize>, out: &mut Results) {
    for (j, row) in rows.enumerate() {
        // SAFETY: contract of the function.
        let y = unsafe { product.row::<M>(row) };
        for i in 0..M {
            out[i][j] = y[i];
        }
    }
}

/// Rows of blocks, one row after the other.
pub(super) struct Blocks<'a, B> {
    all: &'a [B],
    per_row: usize,
}

impl<B> Clone for Blocks<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Blocks<'_, B> {}

impl<'a, B> Blocks<'a, B> {
    pub(super) fn new(all: &'a [B], per_row: usize) -> Self {
        Blocks { all, per_row }
    }

    /// Where the first row begins, and the bytes of a row.
    #[inline(always)]
    pub(super) fn place(self) -> (*const u8, usize) {
        (self.all.as_ptr().cast(), self.per_row * size_of::<B>())
    }

    /// The blocks of a row.
    #[inline(always)]
    pub(super) fn row(self, row: usize) -> &'a [B] {
        self.some(row, 0, self.per_row)
    }

    /// `count` blocks of a row from `first` on.
    #[inline(always)]
    pub(super) fn some(self, row: usize, first: usize, count: usize) -> &'a [B] {
        &self.all[row * self.per_row + first..][..count]
    }

    /// A block of a row.
    ///
    /// # Safety
    /// The block is inside the row.
    #[inline(always)]
    pub(super) unsafe fn one(self, row: usize, block: usize) -> &'a B {
        // SAFETY: contract of the function.
        unsafe { self.all.get_unchecked(row * self.per_row + block) }
    }
}
