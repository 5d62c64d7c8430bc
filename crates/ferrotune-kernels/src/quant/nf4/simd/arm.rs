//! NEON: a scaled table as four, one for each byte of its floats, in which sixteen bytes are looked up at once.

use std::arch::aarch64::*;

use super::portable;

/// The first, second, third and fourth bytes of sixteen floats.
#[inline(always)]
pub(crate) fn tables_neon(code: &[f32; 16], scale: f32) -> uint8x16x4_t {
    let scaled = code.map(|v| v * scale);
    // SAFETY: 64 bytes are read; every 64-bit Arm has NEON.
    unsafe { vld4q_u8(scaled.as_ptr().cast()) }
}

/// The values of sixteen indices below 16.
#[inline(always)]
pub(crate) fn lookup_neon(tables: uint8x16x4_t, index: uint8x16_t) -> [float32x4_t; 4] {
    // SAFETY: registers only; every 64-bit Arm has NEON.
    unsafe {
        let (a, b) = (vqtbl1q_u8(tables.0, index), vqtbl1q_u8(tables.1, index));
        let (c, d) = (vqtbl1q_u8(tables.2, index), vqtbl1q_u8(tables.3, index));
        let half = |v| vreinterpretq_u16_u8(v);
        let (ab, cd) = (half(vzip1q_u8(a, b)), half(vzip1q_u8(c, d)));
        let (ef, gh) = (half(vzip2q_u8(a, b)), half(vzip2q_u8(c, d)));
        [vzip1q_u16(ab, cd), vzip2q_u16(ab, cd), vzip1q_u16(ef, gh), vzip2q_u16(ef, gh)]
            .map(|v| vreinterpretq_f32_u16(v))
    }
}

/// 32 values from 16 bytes; the first of a byte is its high nibble.
#[inline(always)]
pub(crate) fn values_neon(tables: uint8x16x4_t, bytes: &[u8; 16]) -> [[float32x4_t; 4]; 2] {
    // SAFETY: 16 bytes are read; every 64-bit Arm has NEON.
    let (first, second) = unsafe {
        let bytes = vld1q_u8(bytes.as_ptr());
        let (high, low) = (vshrq_n_u8::<4>(bytes), vandq_u8(bytes, vdupq_n_u8(15)));
        (vzip1q_u8(high, low), vzip2q_u8(high, low))
    };
    [lookup_neon(tables, first), lookup_neon(tables, second)]
}

/// Decodes whole bytes.
pub(in super::super) fn pairs(bytes: &[u8], scale: f32, code: &[f32; 16], out: &mut [f32]) {
    let (head, tail) = bytes.as_chunks::<16>();
    let (done, rest) = out.split_at_mut(head.len() * 32);
    let tables = tables_neon(code, scale);
    for (bytes, out) in head.iter().zip(done.as_chunks_mut::<32>().0) {
        let values = values_neon(tables, bytes);
        for (values, out) in values.as_flattened().iter().zip(out.as_chunks_mut::<4>().0) {
            // SAFETY: `out` is 4 floats; every 64-bit Arm has NEON.
            unsafe { vst1q_f32(out.as_mut_ptr(), *values) };
        }
    }
    portable::pairs(tail, scale, code, rest);
}
