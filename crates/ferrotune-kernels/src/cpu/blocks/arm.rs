//! Sixteen values in four registers of NEON.

use std::arch::aarch64::*;

use super::lanes::{EVEN_FIRST, Lanes, Plain};
use crate::quant::gguf::half;
use crate::quant::nf4::{lookup_neon, tables_neon};

#[derive(Clone, Copy)]
pub(super) struct Quad([float32x4_t; 4]);

/// Sixteen bytes without sign.
#[inline(always)]
fn floats(bytes: uint8x16_t) -> Quad {
    // SAFETY: registers only; every 64-bit Arm has NEON.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        Quad(
            [
                vmovl_u16(vget_low_u16(low)),
                vmovl_high_u16(low),
                vmovl_u16(vget_low_u16(high)),
                vmovl_high_u16(high),
            ]
            .map(|v| vcvtq_f32_u32(v)),
        )
    }
}

/// Sixteen bytes with a sign.
#[inline(always)]
fn signed_floats(bytes: int8x16_t) -> Quad {
    // SAFETY: as above.
    unsafe {
        let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        Quad(
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
            .map(|v| vcvtq_f32_s32(v)),
        )
    }
}

/// The low and the high nibbles of sixteen bytes.
///
/// # Safety
/// They may be read.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: contract of the function; every 64-bit Arm has NEON.
    unsafe {
        let bytes = vld1q_u8(p);
        (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes))
    }
}

// SAFETY: every 64-bit Arm has NEON; reads are within the contract.
unsafe impl Lanes for Quad {
    type Table = uint8x16x4_t;
    type Both = uint8x16x4_t;

    const ORDER: [usize; 32] = EVEN_FIRST;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        // SAFETY: contract of the trait, as in all methods.
        Quad([unsafe { vdupq_n_f32(v) }; 4])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: as above.
        Quad(unsafe { [vld1q_f32(p), vld1q_f32(p.add(4)), vld1q_f32(p.add(8)), vld1q_f32(p.add(12))] })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        for (i, v) in self.0.into_iter().enumerate() {
            // SAFETY: as above.
            unsafe { vst1q_f32(p.add(4 * i), v) };
        }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        Quad(std::array::from_fn(|i| unsafe { vmulq_f32(self.0[i], b.0[i]) }))
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: as above.
        Quad(std::array::from_fn(|i| unsafe { vfmaq_f32(c.0[i], self.0[i], b.0[i]) }))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let [a, b, c, d] = self.0;
        // SAFETY: as above.
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d))) }
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self {
        // SAFETY: as above.
        floats(unsafe { vld1q_u8(p) })
    }

    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Self {
        // SAFETY: as above.
        signed_floats(unsafe { vld1q_s8(p.cast()) })
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Self::Table {
        tables_neon(values, 1.0)
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: Self::Table) -> (Self, Self) {
        // SAFETY: as above.
        let (low, high) = unsafe { nibbles(p) };
        (Quad(lookup_neon(table, low)), Quad(lookup_neon(table, high)))
    }

    #[inline(always)]
    unsafe fn table_of_both(values: &[f32; 16]) -> Self::Both {
        tables_neon(values, 1.0)
    }

    #[inline(always)]
    unsafe fn both(p: *const u8, table: Self::Both) -> (Self, Self) {
        // SAFETY: as above.
        let (low, high) = unsafe { Self::lookup(p, table) };
        (high, low)
    }

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> (Self, Self) {
        // SAFETY: as above.
        let (low, high) = unsafe { nibbles(p) };
        (floats(low), floats(high))
    }

    #[inline(always)]
    unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> Self {
        // SAFETY: as above.
        unsafe {
            let (low_nibbles, high_nibbles) = nibbles(low);
            let nibble = if HIGH { high_nibbles } else { low_nibbles };
            let two = vshlq_u8(vld1q_u8(high), vdupq_n_s8(-SHIFT as i8));
            let two = vshlq_n_u8::<4>(vandq_u8(two, vdupq_n_u8(3)));
            let six = vreinterpretq_s8_u8(vorrq_u8(nibble, two));
            signed_floats(vsubq_s8(six, vdupq_n_s8(32)))
        }
    }

    #[inline(always)]
    unsafe fn halves<const STRIDE: usize>(p: *const u8, n: usize) -> (Self, Self) {
        let (mut first, mut second) = ([0.0; 16], [0.0; 16]);
        // SAFETY: as above; both have room for sixteen.
        unsafe {
            let (a, b) = Plain::halves::<STRIDE>(p, n);
            a.store(first.as_mut_ptr());
            b.store(second.as_mut_ptr());
            (Self::load(first.as_ptr()), Self::load(second.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn half(bytes: [u8; 2]) -> f32 {
        half(bytes)
    }
}
