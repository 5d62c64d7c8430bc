//! Super-blocks of 256 values: scales of 16 or 32 values are themselves small integers times a scale of all.

use super::{Block, PART, half};

/// 2-bit values; 4-bit scales and minima for each 16.
#[repr(C)]
pub(super) struct Q2K {
    scales: [u8; 16],
    qs: [u8; 64],
    d: [u8; 2],
    dmin: [u8; 2],
}

/// 3-bit values, the third bit in `hmask`; 6-bit scales for each 16.
#[repr(C)]
pub(super) struct Q3K {
    hmask: [u8; 32],
    qs: [u8; 64],
    scales: [u8; 12],
    d: [u8; 2],
}

/// 4-bit values; 6-bit scales and minima for each 32.
#[repr(C)]
pub(crate) struct Q4K {
    pub(crate) d: [u8; 2],
    pub(crate) dmin: [u8; 2],
    pub(crate) scales: [u8; 12],
    pub(crate) qs: [u8; 128],
}

/// 5-bit values, the fifth bit in `qh`; 6-bit scales and minima for each 32.
#[repr(C)]
pub(super) struct Q5K {
    d: [u8; 2],
    dmin: [u8; 2],
    scales: [u8; 12],
    qh: [u8; 32],
    qs: [u8; 128],
}

/// 6-bit values, the upper two bits in `qh`; 8-bit scales for each 16.
#[repr(C)]
pub(crate) struct Q6K {
    pub(crate) ql: [u8; 128],
    pub(crate) qh: [u8; 64],
    pub(crate) scales: [u8; 16],
    pub(crate) d: [u8; 2],
}

/// Scale and minimum of a part, unpacked from the 12 bytes that hold eight of each in 6 bits.
#[inline(always)]
fn scale_and_min(scales: &[u8; 12], part: usize) -> (f32, f32) {
    let (scale, min) = if part < 4 {
        (scales[part] & 63, scales[part + 4] & 63)
    } else {
        let low = scales[part + 4];
        ((low & 15) | (scales[part - 4] >> 6) << 4, (low >> 4) | (scales[part] >> 6) << 4)
    };
    (scale as f32, min as f32)
}

/// The 32 bytes from `start` on.
#[inline(always)]
fn run(bytes: &[u8], start: usize) -> &[u8; 32] {
    bytes[start..].first_chunk().expect("32 bytes lie behind every start of a part")
}

impl Q4K {
    /// The eight scales, then the eight minima, a byte each.
    #[inline(always)]
    pub(crate) fn unpacked_scales(&self) -> [u8; 16] {
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| self.scales[4 * i + j]));
        let (a, b, c) = (word(0), word(1), word(2));
        // Four bytes at a time; see `scale_and_min`.
        let words = [
            a & 0x3f3f_3f3f,
            (c & 0x0f0f_0f0f) | (a >> 2 & 0x3030_3030),
            b & 0x3f3f_3f3f,
            (c >> 4 & 0x0f0f_0f0f) | (b >> 2 & 0x3030_3030),
        ];
        let mut bytes = [0; 16];
        for (out, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *out = word.to_le_bytes();
        }
        bytes
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q2K {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let (d, dmin) = (half(self.d), half(self.dmin));
        let (qs, shift) = (run(&self.qs, part / 4 * 32), part % 4 * 2);
        for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let packed = self.scales[part * 2 + h];
            let (scale, min) = (d * (packed & 15) as f32, dmin * (packed >> 4) as f32);
            for (o, q) in out.iter_mut().zip(&qs[h * 16..]) {
                *o = scale * (q >> shift & 3) as f32 - min;
            }
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q3K {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        let (qs, shift) = (run(&self.qs, part / 4 * 32), part % 4 * 2);
        for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let i = part * 2 + h;
            let low = if i < 8 { self.scales[i] & 15 } else { self.scales[i - 8] >> 4 };
            let high = self.scales[8 + i % 4] >> (i / 4 * 2) & 3;
            let scale = d * ((low | high << 4) as i32 - 32) as f32;
            for ((o, q), mask) in out.iter_mut().zip(&qs[h * 16..]).zip(&self.hmask[h * 16..]) {
                *o = scale * ((q >> shift & 3 | (mask >> part & 1) << 2) as i32 - 4) as f32;
            }
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q4K {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let (scale, min) = scale_and_min(&self.scales, part);
        let (scale, min) = (half(self.d) * scale, half(self.dmin) * min);
        let (qs, shift) = (run(&self.qs, part / 2 * 32), part % 2 * 4);
        for (o, q) in out.iter_mut().zip(qs) {
            *o = scale * (q >> shift & 15) as f32 - min;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q5K {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let (scale, min) = scale_and_min(&self.scales, part);
        let (scale, min) = (half(self.d) * scale, half(self.dmin) * min);
        let (qs, shift) = (run(&self.qs, part / 2 * 32), part % 2 * 4);
        for ((o, q), high) in out.iter_mut().zip(qs).zip(&self.qh) {
            *o = scale * (q >> shift & 15 | (high >> part & 1) << 4) as f32 - min;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q6K {
    const LEN: usize = 256;

    #[inline(always)]
    fn part(&self, part: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        let (group, quarter) = (part / 4, part % 4);
        let ql = run(&self.ql, group * 64 + quarter % 2 * 32);
        let qh = run(&self.qh, group * 32);
        let (low_shift, high_shift) = (quarter / 2 * 4, quarter * 2);
        for (h, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * (self.scales[part * 2 + h] as i8) as f32;
            for ((o, low), high) in out.iter_mut().zip(&ql[h * 16..]).zip(&qh[h * 16..]) {
                let q = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
                *o = scale * (q as i32 - 32) as f32;
            }
        }
    }
}
