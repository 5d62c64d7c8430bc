//! The left operand of a product: rows of words, read where they are if they are that already.

use std::ops::Range;

use super::microkernel::pick;
use super::transpose::{ROWS, transpose};
use super::words::{Mat, Words, row, zip};
use super::{Cpu, Isa, SharedMut};
use crate::dtype::Precision;
use crate::tensor::Buffer;

/// An `[M, K]` operand as rows of words.
pub struct Left<'a> {
    words: Store<'a>,
    /// Words from row to row.
    pub(crate) stride: usize,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) precision: Precision,
    kind: Words,
}

enum Store<'a> {
    Own(Buffer),
    Of(&'a [f32]),
}

impl Left<'_> {
    /// Rows `M`.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// The values as a matrix: what was rounded for one product need not be rounded again for another.
    pub(crate) fn mat(&self) -> Mat<'_> {
        match self.kind {
            Words::Pairs => Mat::Bf16(bytemuck::cast_slice(self.words()), 2 * self.stride),
            Words::F32 | Words::Rounded => Mat::F32(self.words(), self.stride),
        }
    }

    pub(crate) fn words(&self) -> &[f32] {
        match &self.words {
            Store::Own(buffer) => buffer.f32(),
            Store::Of(words) => words,
        }
    }
}

/// The words of `mat` and those of a row, if they need no change: then nothing is copied.
fn words_in_place<'a>(mat: Mat<'a>, k: usize, kind: Words) -> Option<(&'a [f32], usize)> {
    let (bytes, stride) = mat.in_place(kind)?;
    let whole = &bytes[..bytes.len() / 4 * 4];
    let fits = stride.is_multiple_of(4) && k.is_multiple_of(kind.values());
    fits.then(|| bytemuck::try_cast_slice(whole).ok()).flatten().map(|words| (words, stride / 4))
}

/// Makes a left operand. `transposed`: `mat` is stored `[K, M]`.
pub fn left<'a>(
    cpu: &Cpu,
    precision: Precision,
    mat: Mat<'a>,
    m: usize,
    k: usize,
    transposed: bool,
) -> Left<'a> {
    let isa = cpu.isa();
    let kind = Words::of(pick(isa, precision == Precision::Bf16), precision);
    if !transposed && let Some((words, stride)) = words_in_place(mat, k, kind) {
        return Left { words: Store::Of(words), stride, m, k, precision, kind };
    }
    let words = kind.count(k);
    let mut buffer = cpu.pool().take(m * words);
    let out = SharedMut::new(&mut buffer.f32_mut()[..m * words]);
    if transposed {
        let parts = m.div_ceil(ROWS);
        cpu.threads().run_ranges(parts, 1, |parts| {
            let (from, to) = (parts.start * ROWS, (parts.end * ROWS).min(m));
            // SAFETY: ranges of rows are disjoint.
            let out = unsafe { out.slice(from * words..to * words) };
            columns_to_words(isa, kind, mat, from..to, k, out);
        });
    } else {
        cpu.threads().run_ranges(m, 8, |rows| {
            let mut buffer = cpu.pool().take(k);
            for r in rows {
                // SAFETY: every row is written by one task.
                let out = unsafe { out.slice(r * words..(r + 1) * words) };
                if let Mat::F32(data, cols) = mat {
                    row(isa, kind, &data[r * cols..][..k], out);
                    continue;
                }
                let values = &mut buffer.f32_mut()[..k];
                mat.read(isa, r, 0, values);
                row(isa, kind, values, out);
            }
        });
    }
    Left { words: Store::Own(buffer), stride: words, m, k, precision, kind }
}

/// At most 16 columns of a `[K, ..]` matrix as rows of words; `line(i, ..)` gives the word of each column from its row `i` on.
fn turn(isa: Isa, kind: Words, line: impl Fn(usize, &mut [f32]), m: usize, k: usize, out: &mut [f32]) {
    let words = kind.count(k);
    let mut square = [0.0f32; ROWS * ROWS];
    for at in (0..words).step_by(ROWS) {
        let live = (words - at).min(ROWS);
        for (w, out) in square.chunks_exact_mut(ROWS).take(live).enumerate() {
            line((at + w) * kind.values(), &mut out[..m]);
        }
        transpose(isa, bytemuck::cast_slice(&square), 4 * ROWS, (live, m), &mut out[at..], words);
    }
}

/// A small left operand from `m` f32 rows of `k` values, `stride` apart.
pub(crate) fn rows_to_words(
    isa: Isa,
    kind: Words,
    from: &[f32],
    stride: usize,
    m: usize,
    k: usize,
    out: &mut [f32],
) {
    let words = kind.count(k);
    for (r, out) in out.chunks_exact_mut(words).take(m).enumerate() {
        row(isa, kind, &from[r * stride..][..k], out);
    }
}

/// Columns of a matrix stored `[K, M]` as rows of words.
pub(crate) fn columns_to_words(
    isa: Isa,
    kind: Words,
    mat: Mat<'_>,
    columns: Range<usize>,
    k: usize,
    out: &mut [f32],
) {
    let words = kind.count(k);
    if let (Mat::F32(data, stride), Words::F32) = (mat, kind) {
        // Where they lie, sixteen rows at a time.
        for row in (0..k).step_by(ROWS) {
            let from = bytemuck::cast_slice(&data[row * stride + columns.start..]);
            let size = ((k - row).min(ROWS), columns.len());
            transpose(isa, from, 4 * stride, size, &mut out[row..], words);
        }
        return;
    }
    for (at, out) in columns.clone().step_by(ROWS).zip(out.chunks_mut(ROWS * words)) {
        let m = (columns.end - at).min(ROWS);
        let last = kind.values() - 1;
        if let Mat::F32(data, stride) = mat {
            // Where they lie.
            let row = |i: usize| if i < k { &data[i * stride + at..][..m] } else { &[0.0; ROWS][..m] };
            turn(isa, kind, |i, out| zip(isa, kind, row(i), row(i + last), out), m, k, out);
            continue;
        }
        let read = |i: usize| {
            let mut row = [0.0; ROWS];
            if i < k {
                mat.read(isa, i, at, &mut row[..m]);
            }
            row
        };
        let line = |i: usize, out: &mut [f32]| {
            let one = read(i);
            let two = if last == 0 { one } else { read(i + last) };
            zip(isa, kind, &one[..m], &two[..m], out);
        };
        turn(isa, kind, line, m, k, out);
    }
}
