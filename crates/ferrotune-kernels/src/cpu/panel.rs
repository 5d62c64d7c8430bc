//! The right operand of a product, packed panel by panel: 64 columns, decoded on the way if they are a weight.

use super::Isa;
use super::four_bit::{pair_rows, pair_values, value_rows};
use super::microkernel::{Micro, PANEL};
use super::transpose::{ROWS, transpose};
use super::words::{Mat, Places, Words, row, spread, spread_wide, zip, zip_narrow, zip_rows};

/// Words of scratch memory that [`pack_panel`] needs for a reduction of `k` values.
pub(crate) fn scratch_words(kind: Words, k: usize) -> usize {
    ROWS * row_stride(kind.count(k)) + k
}

/// A stride off the power of two keeps the 16 rows out of each other's cache sets.
fn row_stride(words: usize) -> usize {
    words + 16
}

/// What is packed, and how.
#[derive(Clone, Copy)]
pub(crate) struct Packing {
    pub(crate) isa: Isa,
    pub(crate) micro: Micro,
    pub(crate) kind: Words,
}

/// Packs columns `n0..n0+cols` and reduction `k0..k0+k` of B: sub-panels of `nr` columns, each `[words][nr]`; gives the
/// words of a column. `transposed`: B is stored `[K, N]`. `k0` is even.
pub(crate) fn pack_panel(
    p: Packing,
    (b, transposed): (Mat<'_>, bool),
    columns: (usize, usize),
    reduction: (usize, usize),
    scratch: &mut [f32],
    out: &mut [f32],
) -> usize {
    let b = b.dense();
    match transposed {
        true if columns.1 == PANEL && p.kind != Words::Pairs => pack_values(p, b, columns.0, reduction, out),
        true => pack_reduction_rows(p, b, columns, reduction, out),
        false => pack_column_rows(p, b, columns, reduction, scratch, out),
    }
    p.kind.count(reduction.1)
}

/// B is `[K, N]`: its rows are the steps of the reduction. A whole panel of words that are a value each.
fn pack_values(p: Packing, b: Mat<'_>, n0: usize, (k0, k): (usize, usize), out: &mut [f32]) {
    let (isa, nr) = (p.isa, p.micro.nr);
    // Sub-panels lie `k * nr` apart.
    let to = Places { line: nr, apart: if nr == PANEL { ROWS } else { k * nr } };
    const { assert!(ROWS == 16) };
    match b {
        Mat::F32(data, stride) if p.kind == Words::F32 => {
            spread(isa, &data[k0 * stride + n0..], stride, k, to, out);
        }
        Mat::Weight(w) if p.kind == Words::F32 && value_rows(isa, w, (k0, n0), k, to, out) => {}
        Mat::Bf16(data, stride) => spread_wide(isa, &data[k0 * stride + n0..], stride, k, to, out),
        _ => {
            let (mut values, mut words) = ([0.0; PANEL], [0.0; PANEL]);
            for i in 0..k {
                b.read(isa, k0 + i, n0, &mut values);
                let line = &mut out[i * nr..];
                if p.kind == Words::F32 {
                    spread(isa, &values, PANEL, 1, to, line);
                } else {
                    row(isa, p.kind, &values, &mut words);
                    spread(isa, &words, PANEL, 1, to, line);
                }
            }
        }
    }
}

/// The same of any panel.
fn pack_reduction_rows(
    p: Packing,
    b: Mat<'_>,
    (n0, cols): (usize, usize),
    (k0, k): (usize, usize),
    out: &mut [f32],
) {
    let (isa, kind, nr) = (p.isa, p.kind, p.micro.nr);
    let words = kind.count(k);
    let narrow = b.bf16().filter(|_| kind == Words::Pairs);
    let (mut first, mut second) = ([0.0; PANEL], [0.0; PANEL]);
    let done = match (narrow, b) {
        _ if cols != PANEL || nr != PANEL => 0,
        (Some(values), _) => zip_rows(isa, &values[k0 * b.cols() + n0..], b.cols(), k / 2, out),
        (None, Mat::Weight(w)) if kind == Words::Pairs => pair_rows(isa, w, (k0, n0), k / 2, out),
        _ => 0,
    };
    for w in done..words {
        let i = w * kind.values();
        // Sub-panels lie `words * nr` apart.
        let lines = out[w * nr..].chunks_mut(words * nr).take(cols.div_ceil(nr)).map(|out| &mut out[..nr]);
        if let Some(values) = narrow {
            let row = |i: usize| &values[(k0 + i) * b.cols() + n0..][..cols];
            let (a, b) = (row(i), (i + 1 < k).then(|| row(i + 1)));
            for (line, at) in lines.zip((0..).step_by(nr)) {
                let live = (cols - at).min(nr);
                zip_narrow(isa, &a[at..][..live], b.map(|b| &b[at..][..live]), &mut line[..live]);
            }
            continue;
        }
        let (one, two): (&[f32], &[f32]) = match b {
            // Where they lie.
            Mat::F32(data, stride) if cols == PANEL && i + kind.values() <= k => {
                let line = |i: usize| &data[(k0 + i) * stride + n0..][..cols];
                (line(i), line(i + kind.values() - 1))
            }
            _ => {
                b.read(isa, k0 + i, n0, &mut first[..cols]);
                if kind.values() == 2 {
                    match i + 1 < k {
                        true => b.read(isa, k0 + i + 1, n0, &mut second[..cols]),
                        false => second.fill(0.0),
                    }
                }
                (&first, &second)
            }
        };
        for (line, at) in lines.zip((0..).step_by(nr)) {
            zip(isa, kind, &one[at..][..nr], &two[at..][..nr], line);
        }
    }
}

/// B is `[N, K]`: its rows are columns of the panel.
fn pack_column_rows(
    p: Packing,
    b: Mat<'_>,
    (n0, cols): (usize, usize),
    (k0, k): (usize, usize),
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let (isa, kind, nr) = (p.isa, p.kind, p.micro.nr);
    let words = kind.count(k);
    let stride = row_stride(words);
    let (rows, values) = scratch.split_at_mut(ROWS * stride);
    let in_place = b.in_place(kind).filter(|_| k % kind.values() == 0);
    for group in 0..cols.div_ceil(ROWS) {
        let first = n0 + ROWS * group;
        let live = (cols - ROWS * group).min(ROWS);
        let column = ROWS * group;
        let out = &mut out[column / nr * words * nr + column % nr..];
        match in_place {
            Some((bytes, step)) if live == ROWS => {
                let from = &bytes[first * step + 4 * k0 / kind.values()..];
                transpose(isa, from, step, (ROWS, words), out, nr);
            }
            _ => {
                for (j, out) in rows.chunks_exact_mut(stride).enumerate() {
                    if j < live {
                        let (at, out) = (first + j, &mut out[..words]);
                        match b {
                            // Where they lie.
                            Mat::F32(data, stride) => row(isa, kind, &data[at * stride + k0..][..k], out),
                            // Already rounded.
                            Mat::Bf16(..) if kind != Words::Pairs => b.read(isa, at, k0, out),
                            _ if kind == Words::F32 => b.read(isa, at, k0, out),
                            Mat::Weight(w)
                                if kind == Words::Pairs && k % 2 == 0 && pair_values(isa, w, at, k0, out) => {
                            }
                            _ => {
                                b.read(isa, at, k0, &mut values[..k]);
                                row(isa, kind, &values[..k], out);
                            }
                        }
                    } else {
                        out.fill(0.0);
                    }
                }
                transpose(isa, bytemuck::cast_slice(rows), 4 * stride, (ROWS, words), out, nr);
            }
        }
    }
}
