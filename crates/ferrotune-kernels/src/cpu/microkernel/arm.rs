//! NEON: four values in a register, 6 rows of 16 columns in 24 of them.

use std::arch::aarch64::*;

use super::Tile;

pub(super) unsafe fn neon_f32(t: Tile) {
    // SAFETY: contract of `Kernel`.
    unsafe {
        match t.cols {
            0..=8 => by_rows!(t.rows, neon_f32_tile::<2>(t)),
            _ => by_rows!(t.rows, neon_f32_tile::<4>(t)),
        }
    }
}

/// One step of the reduction: the values of A are lane `L` of `x`. A register of B at a time, as sums and A take 30 of the 32.
#[inline(always)]
unsafe fn step<const R: usize, const J: usize, const L: i32>(
    sum: &mut [[float32x4_t; J]; R],
    x: &[float32x4_t; R],
    b: *const f32,
) {
    for j in 0..J {
        // SAFETY: contract of `Kernel`: a step of B is 16 words.
        let b = unsafe { vld1q_f32(b.add(4 * j)) };
        for r in 0..R {
            // SAFETY: every 64-bit Arm has NEON.
            sum[r][j] = unsafe { vfmaq_laneq_f32::<L>(sum[r][j], b, x[r]) };
        }
    }
}

unsafe fn neon_f32_tile<const R: usize, const J: usize>(t: Tile) {
    let Tile { words, a, lda, b, c, ldc, cols, accumulate, .. } = t;
    // SAFETY: contract of `Kernel`.
    unsafe {
        let mut sum = [[vdupq_n_f32(0.0); J]; R];
        let whole = words / 4 * 4;
        for i in (0..whole).step_by(4) {
            let mut x = [vdupq_n_f32(0.0); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = vld1q_f32(a.add(r * lda + i));
            }
            let b = b.add(16 * i);
            step::<R, J, 0>(&mut sum, &x, b);
            step::<R, J, 1>(&mut sum, &x, b.add(16));
            step::<R, J, 2>(&mut sum, &x, b.add(32));
            step::<R, J, 3>(&mut sum, &x, b.add(48));
        }
        for i in whole..words {
            let mut x = [vdupq_n_f32(0.0); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = vdupq_n_f32(*a.add(r * lda + i));
            }
            step::<R, J, 0>(&mut sum, &x, b.add(16 * i));
        }
        for (r, sum) in sum.iter().enumerate() {
            let p = c.add(r * ldc);
            if cols == 4 * J {
                for (j, sum) in sum.iter().enumerate() {
                    let q = p.add(4 * j);
                    let old = if accumulate { vld1q_f32(q) } else { vdupq_n_f32(0.0) };
                    vst1q_f32(q, vaddq_f32(*sum, old));
                }
            } else {
                let mut row = [0.0f32; 16];
                for (j, sum) in sum.iter().enumerate() {
                    vst1q_f32(row.as_mut_ptr().add(4 * j), *sum);
                }
                for (j, v) in row.iter().enumerate().take(cols) {
                    let q = p.add(j);
                    *q = if accumulate { *q + v } else { *v };
                }
            }
        }
    }
}
