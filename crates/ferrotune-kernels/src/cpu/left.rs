//! The left operand of a product: rows of words, read where they are if they are that already.

use half::bf16;

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

    pub(crate) fn words(&self) -> &[f32] {
        match &self.words {
            Store::Own(buffer) => buffer.f32(),
            Store::Of(words) => words,
        }
    }
}

/// The words of `mat` if they need no change: then nothing is copied.
fn in_place<'a>(mat: Mat<'a>, k: usize, kind: Words) -> Option<(&'a [f32], usize)> {
    match (mat, kind) {
        (Mat::F32(data, cols), Words::F32) => Some((data, cols)),
        (Mat::Bf16(data, cols), Words::Pairs) if cols.is_multiple_of(2) && k.is_multiple_of(2) => {
            let whole: &[bf16] = &data[..data.len() / 2 * 2];
            Some((bytemuck::try_cast_slice(whole).ok()?, cols / 2))
        }
        _ => None,
    }
}

/// Makes a left operand. `transposed`: `mat` is stored `[K, M]`. Every value is multiplied by `scale` first.
pub fn left<'a>(
    cpu: &Cpu,
    precision: Precision,
    mat: Mat<'a>,
    m: usize,
    k: usize,
    transposed: bool,
    scale: f32,
) -> Left<'a> {
    let isa = cpu.isa();
    let kind = Words::of(pick(isa, precision == Precision::Bf16), precision);
    if !transposed
        && scale == 1.0
        && let Some((words, stride)) = in_place(mat, k, kind)
    {
        return Left { words: Store::Of(words), stride, m, k, precision };
    }
    let words = kind.count(k);
    let mut buffer = cpu.pool().take(m * words);
    let out = SharedMut::new(&mut buffer.f32_mut()[..m * words]);
    if transposed {
        let parts = m.div_ceil(ROWS);
        cpu.run_ranges(parts, 1, |parts| {
            let (from, to) = (parts.start * ROWS, (parts.end * ROWS).min(m));
            // SAFETY: ranges of rows are disjoint.
            let out = unsafe { out.slice(from * words..to * words) };
            for (part, out) in out.chunks_mut(ROWS * words).enumerate() {
                let at = from + part * ROWS;
                let read = |i: usize, out: &mut [f32]| {
                    mat.read(isa, i, at, out);
                    if scale != 1.0 {
                        out.iter_mut().for_each(|v| *v *= scale);
                    }
                };
                turn(isa, kind, read, out.len() / words, k, out);
            }
        });
    } else {
        cpu.run_ranges(m, 8, |rows| {
            let mut buffer = cpu.pool().take(k);
            for r in rows {
                // SAFETY: every row is written by one task.
                let out = unsafe { out.slice(r * words..(r + 1) * words) };
                if let (Mat::F32(data, cols), true) = (mat, scale == 1.0) {
                    row(isa, kind, &data[r * cols..][..k], out);
                    continue;
                }
                let values = &mut buffer.f32_mut()[..k];
                mat.read(isa, r, 0, values);
                values.iter_mut().for_each(|v| *v *= scale);
                row(isa, kind, values, out);
            }
        });
    }
    Left { words: Store::Own(buffer), stride: words, m, k, precision }
}

/// At most 16 columns of a `[K, ..]` matrix, whose part of row `i` is given by `read(i, ..)`, as rows of words.
fn turn(isa: Isa, kind: Words, read: impl Fn(usize, &mut [f32]), m: usize, k: usize, out: &mut [f32]) {
    let (words, values) = (kind.count(k), kind.values());
    let mut square = [0.0f32; ROWS * ROWS];
    let (mut a, mut b) = ([0.0f32; ROWS], [0.0f32; ROWS]);
    for at in (0..words).step_by(ROWS) {
        let live = (words - at).min(ROWS);
        for (w, out) in square.chunks_exact_mut(ROWS).take(live).enumerate() {
            let i = (at + w) * values;
            read(i, &mut a[..m]);
            if values == 2 {
                match i + 1 < k {
                    true => read(i + 1, &mut b[..m]),
                    false => b.fill(0.0),
                }
            }
            zip(isa, kind, &a, &b, out);
        }
        let bytes = bytemuck::cast_slice(&square);
        if live == ROWS && m < ROWS {
            // All rows of the square, but only `m` of its columns.
            transpose(isa, bytes, 4 * ROWS, (ROWS, m), &mut out[at..], words);
        } else {
            transpose(isa, bytes, 4 * ROWS, (live, m), &mut out[at..], words);
        }
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

/// The same from a matrix stored `[K, M]`, its rows `stride` apart.
pub(crate) fn columns_to_words(
    isa: Isa,
    kind: Words,
    from: &[f32],
    stride: usize,
    m: usize,
    k: usize,
    out: &mut [f32],
) {
    let words = kind.count(k);
    for at in (0..m).step_by(ROWS) {
        let live = (m - at).min(ROWS);
        let read = |i: usize, out: &mut [f32]| out.copy_from_slice(&from[i * stride + at..][..live]);
        turn(isa, kind, read, live, k, &mut out[at * words..]);
    }
}
