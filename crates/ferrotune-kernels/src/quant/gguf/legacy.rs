//! Blocks of 32 values with one scale, and for the `_1` formats a minimum.

use super::{Block, PART, half};

/// 8-bit integers times a scale.
#[repr(C)]
pub(crate) struct Q8_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; 32],
}

/// Nibbles less 8 times a scale.
#[repr(C)]
pub(crate) struct Q4_0 {
    pub(crate) d: [u8; 2],
    pub(crate) qs: [u8; 16],
}

/// Nibbles times a scale plus a minimum.
#[repr(C)]
pub(crate) struct Q4_1 {
    pub(crate) d: [u8; 2],
    pub(crate) m: [u8; 2],
    pub(crate) qs: [u8; 16],
}

/// As `Q4_0` with a fifth bit of each value in `qh`.
#[repr(C)]
pub(super) struct Q5_0 {
    d: [u8; 2],
    qh: [u8; 4],
    qs: [u8; 16],
}

/// As `Q4_1` with a fifth bit of each value in `qh`.
#[repr(C)]
pub(super) struct Q5_1 {
    d: [u8; 2],
    m: [u8; 2],
    qh: [u8; 4],
    qs: [u8; 16],
}

/// The low nibbles are the first 16 values, the high ones the others.
#[inline(always)]
pub(super) fn nibbles(qs: &[u8; 16]) -> [u8; PART] {
    let mut all = [0; PART];
    for i in 0..16 {
        all[i] = qs[i] & 15;
        all[16 + i] = qs[i] >> 4;
    }
    all
}

/// Nibbles with their fifth bits.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; PART] {
    let high = u32::from_le_bytes(qh);
    let low = nibbles(qs);
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q8_0 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        for (o, &q) in out.iter_mut().zip(&self.qs) {
            *o = d * (q as i8) as f32;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q4_0 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        for (o, q) in out.iter_mut().zip(nibbles(&self.qs)) {
            *o = d * (q as i32 - 8) as f32;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q4_1 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        let (d, m) = (half(self.d), half(self.m));
        for (o, q) in out.iter_mut().zip(nibbles(&self.qs)) {
            *o = d * q as f32 + m;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q5_0 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        let d = half(self.d);
        for (o, q) in out.iter_mut().zip(five_bits(&self.qs, self.qh)) {
            *o = d * (q as i32 - 16) as f32;
        }
    }
}

// SAFETY: a `repr(C)` struct of byte arrays.
unsafe impl Block for Q5_1 {
    const LEN: usize = 32;

    #[inline(always)]
    fn part(&self, _: usize, out: &mut [f32; PART]) {
        let (d, m) = (half(self.d), half(self.m));
        for (o, q) in out.iter_mut().zip(five_bits(&self.qs, self.qh)) {
            *o = d * q as f32 + m;
        }
    }
}
