//! The innermost loops of GEMM: `C[mr, 64] (+)= A[mr, k] B[k, 64]` on packed operands.
//!
//! A packed operand is made of 32-bit words. In f32 a word is one value of the reduction; in bf16 it is two
//! neighbours of the reduction, so that `vdpbf16ps` multiplies and adds both. A is read where it lies, row by row: every
//! word of it is broadcast by itself, so nothing is gained by another order. B holds `nr` words (one per column) per word
//! of the reduction and is read forward.
//!
//! With `MR` = 6 rows and 64 columns the AVX-512 kernels keep 24 accumulators, 4 registers of B and one broadcast
//! of A in the 32 registers; AVX2 has 16 registers and takes 16 columns at a time, and NEON's 32 are half as long.

use super::Isa;

/// Rows of A that a kernel call multiplies.
pub(crate) const MR: usize = 6;

/// Columns of a panel of B, whatever the instruction set.
pub(crate) const PANEL: usize = 64;

/// What a kernel multiplies: `1 <= rows <= MR` rows, `1 <= cols <= nr` columns.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// Words of the reduction.
    pub(crate) words: usize,
    /// Holds `words` words from `r * lda` on for `r < rows`.
    pub(crate) a: *const f32,
    pub(crate) lda: usize,
    /// Holds `words * nr` words.
    pub(crate) b: *const f32,
    /// Writable at `r * ldc + j` for `r < rows`, `j < cols`.
    pub(crate) c: *mut f32,
    pub(crate) ldc: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Add to C instead of overwriting it.
    pub(crate) accumulate: bool,
}

/// A kernel.
///
/// # Safety
/// The operands are as [`Tile`] says; the CPU has the kernel's instruction set.
pub(crate) type Kernel = unsafe fn(Tile);

/// A kernel and the width of B's sub-panels that it wants.
#[derive(Clone, Copy)]
pub(crate) struct Micro {
    pub(crate) kernel: Kernel,
    pub(crate) nr: usize,
    /// Whether a word is a pair of bf16 values.
    pub(crate) pairs: bool,
}

/// The kernel for f32 words, or for bf16 pairs where `bf16` is asked and the CPU multiplies them.
pub(crate) fn pick(isa: Isa, bf16: bool) -> Micro {
    // Elsewhere bf16 is a rounding of the inputs.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bf16;
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if bf16 => Micro { kernel: x86::avx512_bf16, nr: 64, pairs: true },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => Micro { kernel: x86::avx512_f32, nr: 64, pairs: false },
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Micro { kernel: x86::avx2_f32, nr: 16, pairs: false },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Micro { kernel: arm::neon_f32, nr: 16, pairs: false },
        _ => Micro { kernel: portable, nr: 16, pairs: false },
    }
}

/// A product of any number of rows and columns: rows of A and of C lie `lda` and `ldc` words apart, B is in sub-panels of
/// `nr` columns.
pub(crate) struct Product<'a> {
    pub(crate) words: usize,
    pub(crate) a: &'a [f32],
    pub(crate) lda: usize,
    pub(crate) b: &'a [f32],
    pub(crate) c: &'a mut [f32],
    pub(crate) ldc: usize,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) mode: Mode,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub(crate) struct Mode {
    /// It is added to C instead of overwriting it.
    accumulate: bool,
    pub(crate) part: Part,
}

/// What a product can leave out, up to the next rows that the kernel takes together.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Part {
    /// Nothing.
    All,
    /// Row `r` of A has zeros behind its value `r`, which are not multiplied.
    LowerA,
    /// Row `r` of A has zeros before its value `r`, which are not multiplied.
    UpperA,
    /// Row `r` of C is wanted up to its column `r`; what lies behind is not written or anything.
    LowerC,
}

impl Mode {
    /// `C = A B`.
    pub(crate) const SET: Mode = Mode { accumulate: false, part: Part::All };
    /// `C += A B`.
    pub(crate) const ADD: Mode = Mode { accumulate: true, part: Part::All };

    /// The same of a triangle.
    pub(crate) const fn of(self, part: Part) -> Mode {
        Mode { part, ..self }
    }
}

/// `C (+)= A B`, tile by tile.
pub(crate) fn multiply(micro: Micro, p: Product<'_>) {
    let Product { words, lda, ldc, mode: Mode { accumulate, part }, .. } = p;
    let subs = p.cols.div_ceil(micro.nr);
    assert!(
        p.a.len() >= (p.rows - 1) * lda + words
            && p.b.len() >= subs * words * micro.nr
            && p.c.len() >= (p.rows - 1) * ldc + p.cols
    );
    let values = if micro.pairs { 2 } else { 1 };
    for row in (0..p.rows).step_by(MR) {
        let rows = (p.rows - row).min(MR);
        let (from, to, cols) = match part {
            Part::All => (0, words, p.cols),
            Part::LowerA => (0, (row + rows).div_ceil(values).min(words), p.cols),
            Part::UpperA => ((row / values).min(words), words, p.cols),
            Part::LowerC => (0, words, p.cols.min(row + rows)),
        };
        for sub in 0..cols.div_ceil(micro.nr) {
            // SAFETY: the sizes were just checked, and parts are inside them; the instruction set is that of the device.
            unsafe {
                (micro.kernel)(Tile {
                    words: to - from,
                    a: p.a.as_ptr().add(row * lda + from),
                    lda,
                    b: p.b.as_ptr().add((sub * words + from) * micro.nr),
                    c: p.c.as_mut_ptr().add(row * ldc + sub * micro.nr),
                    ldc,
                    rows,
                    cols: (cols - sub * micro.nr).min(micro.nr),
                    accumulate,
                });
            }
        }
    }
}

/// Plain Rust; vectorised for the build target's baseline (SSE2, NEON).
unsafe fn portable(t: Tile) {
    let Tile { words, a, lda, b, c, ldc, rows, cols, accumulate } = t;
    // SAFETY: sizes by the contract of `Kernel`.
    let b = unsafe { std::slice::from_raw_parts(b, words * 16) };
    for r in 0..rows {
        let mut sum = [0.0f32; 16];
        // SAFETY: as above.
        let a = unsafe { std::slice::from_raw_parts(a.add(r * lda), words) };
        for (ak, bk) in a.iter().zip(b.chunks_exact(16)) {
            for j in 0..16 {
                sum[j] += ak * bk[j];
            }
        }
        // SAFETY: as above.
        let out = unsafe { std::slice::from_raw_parts_mut(c.add(r * ldc), cols) };
        for (o, s) in out.iter_mut().zip(sum) {
            *o = if accumulate { *o + s } else { s };
        }
    }
}

/// Calls `$f::<ROWS, ..>` for the run-time `rows`: the row loop must be unrolled to keep sums in registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! by_rows {
    ($rows:expr, $f:ident::<$j:literal>($($arg:expr),*)) => {
        match $rows {
            1 => $f::<1, $j>($($arg),*),
            2 => $f::<2, $j>($($arg),*),
            3 => $f::<3, $j>($($arg),*),
            4 => $f::<4, $j>($($arg),*),
            5 => $f::<5, $j>($($arg),*),
            _ => $f::<6, $j>($($arg),*),
        }
    };
}

#[cfg(target_arch = "aarch64")]
mod arm;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Tile;

    /// Picks the tile by rows and 16-column vectors: LoRA's ranks fill one vector, not four.
    macro_rules! by_rows_and_vectors {
        ($rows:expr, $cols:expr, $f:ident($($arg:expr),*)) => {
            match $cols.div_ceil(16) {
                1 => by_rows!($rows, $f::<1>($($arg),*)),
                2 => by_rows!($rows, $f::<2>($($arg),*)),
                3 => by_rows!($rows, $f::<3>($($arg),*)),
                _ => by_rows!($rows, $f::<4>($($arg),*)),
            }
        };
    }

    pub(super) unsafe fn avx512_f32(t: Tile) {
        // SAFETY: contract of `Kernel`.
        unsafe { by_rows_and_vectors!(t.rows, t.cols, avx512_f32_tile(t)) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512_f32_tile<const R: usize, const J: usize>(t: Tile) {
        let Tile { words, a, lda, mut b, .. } = t;
        // SAFETY: contract of `Kernel`; `b` advances by what each step of the reduction holds.
        unsafe {
            let mut sum = [[_mm512_setzero_ps(); J]; R];
            for i in 0..words {
                let bv: [__m512; J] = std::array::from_fn(|j| _mm512_loadu_ps(b.add(16 * j)));
                for r in 0..R {
                    let x = _mm512_set1_ps(*a.add(r * lda + i));
                    for j in 0..J {
                        sum[r][j] = _mm512_fmadd_ps(x, bv[j], sum[r][j]);
                    }
                }
                b = b.add(64);
            }
            store::<R, J>(sum, t);
        }
    }

    pub(super) unsafe fn avx512_bf16(t: Tile) {
        // SAFETY: contract of `Kernel`.
        unsafe { by_rows_and_vectors!(t.rows, t.cols, avx512_bf16_tile(t)) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn avx512_bf16_tile<const R: usize, const J: usize>(t: Tile) {
        let Tile { words, a, lda, b, .. } = t;
        // SAFETY: contract of `Kernel`; the words are pairs of bf16, 16 in a register of either type.
        unsafe {
            let a = a.cast::<i32>();
            let mut b = b.cast::<i32>();
            let mut sum = [[_mm512_setzero_ps(); J]; R];
            for i in 0..words {
                let bv: [__m512bh; J] = std::array::from_fn(|j| {
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(16 * j).cast()))
                });
                for r in 0..R {
                    let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*a.add(r * lda + i)));
                    for j in 0..J {
                        sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, bv[j]);
                    }
                }
                b = b.add(64);
            }
            store::<R, J>(sum, t);
        }
    }

    /// Without a target feature of its own, so that it can be inlined always: the sums must stay in registers.
    #[inline(always)]
    unsafe fn store<const R: usize, const J: usize>(sum: [[__m512; J]; R], t: Tile) {
        for r in 0..R {
            for j in 0..J {
                let left = t.cols.saturating_sub(16 * j).min(16);
                let mask = ((1u32 << left) - 1) as __mmask16;
                // SAFETY: masked lanes are inside the row by the contract of `Kernel`; the others are not touched.
                // The caller's instruction set covers this one.
                unsafe {
                    let p = t.c.wrapping_add(r * t.ldc + 16 * j);
                    let old = if t.accumulate { _mm512_maskz_loadu_ps(mask, p) } else { _mm512_setzero_ps() };
                    _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(sum[r][j], old));
                }
            }
        }
    }

    pub(super) unsafe fn avx2_f32(t: Tile) {
        // SAFETY: contract of `Kernel`.
        unsafe {
            match t.cols {
                0..=8 => by_rows!(t.rows, avx2_f32_tile::<1>(t)),
                _ => by_rows!(t.rows, avx2_f32_tile::<2>(t)),
            }
        }
    }

    /// Steps of the reduction between two tests for its end.
    const UNROLL: usize = 4;

    /// `S` steps of the reduction. Two pointers (to the first and to the fourth row) and one distance reach all rows, so that a step
    /// is its loads and products alone: where two threads share a core, the number of instructions is the limit.
    #[inline(always)]
    unsafe fn avx2_steps<const R: usize, const J: usize, const S: usize>(
        sum: &mut [[__m256; J]; R],
        rows: &mut (*const f32, *const f32),
        lda: usize,
        b: &mut *const f32,
    ) {
        // SAFETY: contract of `Kernel`; the caller's instruction set covers this one. The second pointer is read for rows that
        // are there.
        unsafe {
            for i in 0..S {
                let mut bv = [_mm256_setzero_ps(); J];
                for (j, bv) in bv.iter_mut().enumerate() {
                    *bv = _mm256_loadu_ps(b.add(16 * i + 8 * j));
                }
                for r in 0..R {
                    let row = if r < 3 { rows.0.add(r * lda) } else { rows.1.add((r - 3) * lda) };
                    let x = _mm256_broadcast_ss(&*row.add(i));
                    for j in 0..J {
                        sum[r][j] = _mm256_fmadd_ps(x, bv[j], sum[r][j]);
                    }
                }
            }
        }
        *rows = (rows.0.wrapping_add(S), rows.1.wrapping_add(S));
        *b = b.wrapping_add(16 * S);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_f32_tile<const R: usize, const J: usize>(t: Tile) {
        let Tile { words, a, lda, mut b, c, ldc, cols, accumulate, .. } = t;
        // SAFETY: contract of `Kernel`.
        unsafe {
            let mut sum = [[_mm256_setzero_ps(); J]; R];
            let mut rows = (a, a.wrapping_add(3 * lda));
            for _ in 0..words / UNROLL {
                avx2_steps::<R, J, UNROLL>(&mut sum, &mut rows, lda, &mut b);
            }
            for _ in 0..words % UNROLL {
                avx2_steps::<R, J, 1>(&mut sum, &mut rows, lda, &mut b);
            }
            for r in 0..R {
                let p = c.add(r * ldc);
                if cols == 8 * J {
                    for j in 0..J {
                        let q = p.add(8 * j);
                        let old = if accumulate { _mm256_loadu_ps(q) } else { _mm256_setzero_ps() };
                        _mm256_storeu_ps(q, _mm256_add_ps(sum[r][j], old));
                    }
                } else {
                    let mut row = [0.0f32; 16];
                    for j in 0..J {
                        _mm256_storeu_ps(row.as_mut_ptr().add(8 * j), sum[r][j]);
                    }
                    for (j, v) in row.iter().enumerate().take(cols) {
                        let q = p.add(j);
                        *q = if accumulate { *q + v } else { *v };
                    }
                }
            }
        }
    }
}
