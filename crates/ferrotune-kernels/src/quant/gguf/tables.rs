//! Nibbles that stand for the values of a table.

use super::legacy::nibbles;
use super::{Block, PART, half};

/// An index of the table times a scale for each 32 values.
#[repr(C)]
pub(super) struct Iq4Nl {
    d: [u8; 2],
    qs: [u8; 16],
}

/// The same with 6-bit scales in a super-block.
#[repr(C)]
pub(super) struct Iq4Xs {
    d: [u8; 2],
    scales_h: [u8; 2],
    scales_l: [u8; 4],
    qs: [u8; 128],
}

/// OCP MXFP4: 4-bit floats with a power of two for each 32.
#[repr(C)]
pub(super) struct Mxfp4 {
    e: u8,
    qs: [u8; 16],
}

const NON_LINEAR: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Twice the values of a float with two bits of exponent and one of mantissa.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

#[inline(always)]
fn look_up(table: &[f32; 16], scale: f32, qs: &[u8; 16], out: &mut [f32; PART]) {
    let scaled = table.map(|v| scale * v);
    for (o, q) in out.iter_mut().zip(nibbles(qs)) {
        *o = scaled[q as usize & 15];
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Iq4Nl {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        look_up(&NON_LINEAR, half(self.d), &self.qs, out);
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Iq4Xs {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let low = self.scales_l[part / 2] >> (part % 2 * 4) & 15;
        let high = (u16::from_le_bytes(self.scales_h) >> (part * 2) & 3) as u8;
        let scale = half(self.d) * ((low | high << 4) as i32 - 32) as f32;
        look_up(&NON_LINEAR, scale, &self.qs.as_chunks::<16>().0[part], out);
    }
}

// SAFETY: a `repr(C)` struct of bytes and byte arrays.
unsafe impl Block for Mxfp4 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        // 2^(e - 128), which is subnormal for the two smallest exponents.
        let bits = if self.e < 2 { 0x0020_0000 << self.e } else { (self.e as u32 - 1) << 23 };
        look_up(&E2M1, f32::from_bits(bits), &self.qs, out);
    }
}
