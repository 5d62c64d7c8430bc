//! Values -1, 0 and 1 times a scale for each 256.

use super::{Block, PART, half};

/// Five values to a byte in base 3.
#[repr(C)]
pub(super) struct Tq1_0 {
    qs: [u8; 48],
    qh: [u8; 4],
    d: [u8; 2],
}

/// Four values to a byte.
#[repr(C)]
pub(super) struct Tq2_0 {
    qs: [u8; 64],
    d: [u8; 2],
}

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Tq1_0 {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        for (i, o) in out.iter_mut().enumerate() {
            let at = part * PART + i;
            // 32 bytes hold 160 values, the next 16 hold 80, the last 4 hold 16.
            let (byte, digit) = match at {
                0..160 => (self.qs[at % 32], at / 32),
                160..240 => (self.qs[32 + at % 16], (at - 160) / 16),
                _ => (self.qh[at % 4], (at - 240) / 4),
            };
            // A byte is a fraction of 256 in base 3: drop the digits in front and read the next.
            let trit = (byte.wrapping_mul(POWERS[digit]) as u16 * 3) >> 8;
            *o = d * (trit as i32 - 1) as f32;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Tq2_0 {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        for (o, q) in out.iter_mut().zip(&self.qs[part / 4 * 32..]) {
            *o = d * ((q >> (part % 4 * 2) & 3) as i32 - 1) as f32;
        }
    }
}
