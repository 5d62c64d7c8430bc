//! Sixteen f32 values at a time, in the registers of each instruction set: what the products are written with.

use crate::quant::gguf::half;

/// Sixteen values.
///
/// # Safety
/// The methods need the instruction set of the type, and pointers that may be read for 16 values (nibbles: 16 bytes).
pub(super) unsafe trait Lanes: Copy {
    /// A table of sixteen values.
    type Table: Copy;

    /// A table of sixteen values for [`Lanes::both`].
    type Both: Copy;

    /// For each value of [`Lanes::both`] its place among the 32 that 16 bytes stand for, the first of a byte in its high nibble.
    const ORDER: [usize; 32];

    unsafe fn splat(v: f32) -> Self;

    unsafe fn load(p: *const f32) -> Self;

    unsafe fn store(self, p: *mut f32);

    unsafe fn mul(self, b: Self) -> Self;

    /// `self * b + c`
    unsafe fn fma(self, b: Self, c: Self) -> Self;

    unsafe fn sum(self) -> f32;

    /// Bytes without sign.
    unsafe fn bytes(p: *const u8) -> Self;

    /// Bytes with a sign.
    unsafe fn signed(p: *const u8) -> Self;

    unsafe fn table(values: &[f32; 16]) -> Self::Table;

    /// The low and the high nibbles of bytes, looked up.
    unsafe fn lookup(p: *const u8, table: Self::Table) -> (Self, Self);

    /// The table that [`Lanes::both`] looks up.
    unsafe fn table_of_both(values: &[f32; 16]) -> Self::Both;

    /// All nibbles of 16 bytes looked up, in the order that costs least.
    unsafe fn both(p: *const u8, table: Self::Both) -> (Self, Self);

    /// The low and the high nibbles of bytes.
    unsafe fn nibbles(p: *const u8) -> (Self, Self);

    /// Six bits less 32: a nibble of `low` (the high ones if `HIGH`) under the two bits of `high` from `SHIFT` on.
    unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> Self;

    /// Half floats: the first and the second of each of `n` blocks that are `STRIDE` bytes apart; zeros after them.
    /// The first four bytes of these blocks may be read, nothing else.
    unsafe fn halves<const STRIDE: usize>(p: *const u8, n: usize) -> (Self, Self);

    /// A half float.
    unsafe fn half(bytes: [u8; 2]) -> f32;
}

/// The even places, and then the odd ones.
pub(super) const EVEN_FIRST: [usize; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = 2 * (i % 16) + i / 16;
        i += 1;
    }
    order
};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 16]);

// SAFETY: any CPU has what the methods need.
unsafe impl Lanes for Plain {
    type Table = [f32; 16];
    type Both = [f32; 16];

    const ORDER: [usize; 32] = EVEN_FIRST;

    #[inline(always)]
    unsafe fn splat(v: f32) -> Self {
        Plain([v; 16])
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: contract of the trait.
        Plain(unsafe { p.cast::<[f32; 16]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: contract of the trait.
        unsafe { p.cast::<[f32; 16]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i]))
    }

    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        Plain(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }

    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }

    #[inline(always)]
    unsafe fn bytes(p: *const u8) -> Self {
        // SAFETY: contract of the trait.
        Plain(unsafe { p.cast::<[u8; 16]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn signed(p: *const u8) -> Self {
        // SAFETY: contract of the trait.
        Plain(unsafe { p.cast::<[i8; 16]>().read() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn table(values: &[f32; 16]) -> Self::Table {
        *values
    }

    #[inline(always)]
    unsafe fn lookup(p: *const u8, table: Self::Table) -> (Self, Self) {
        // SAFETY: contract of the trait.
        let bytes = unsafe { p.cast::<[u8; 16]>().read() };
        (Plain(bytes.map(|b| table[(b & 15) as usize])), Plain(bytes.map(|b| table[(b >> 4) as usize])))
    }

    #[inline(always)]
    unsafe fn table_of_both(values: &[f32; 16]) -> Self::Both {
        *values
    }

    #[inline(always)]
    unsafe fn both(p: *const u8, table: Self::Both) -> (Self, Self) {
        // SAFETY: contract of the trait.
        let (low, high) = unsafe { Self::lookup(p, table) };
        (high, low)
    }

    #[inline(always)]
    unsafe fn nibbles(p: *const u8) -> (Self, Self) {
        // SAFETY: contract of the trait.
        let bytes = unsafe { p.cast::<[u8; 16]>().read() };
        (Plain(bytes.map(|b| f32::from(b & 15))), Plain(bytes.map(|b| f32::from(b >> 4))))
    }

    #[inline(always)]
    unsafe fn six<const HIGH: bool, const SHIFT: i32>(low: *const u8, high: *const u8) -> Self {
        // SAFETY: contract of the trait.
        let (low, high) = unsafe { (low.cast::<[u8; 16]>().read(), high.cast::<[u8; 16]>().read()) };
        Plain(std::array::from_fn(|i| {
            let nibble = if HIGH { low[i] >> 4 } else { low[i] & 15 };
            f32::from((nibble | (high[i] >> SHIFT & 3) << 4) as i8 - 32)
        }))
    }

    #[inline(always)]
    unsafe fn halves<const STRIDE: usize>(p: *const u8, n: usize) -> (Self, Self) {
        let (mut first, mut second) = ([0.0; 16], [0.0; 16]);
        for i in 0..n {
            // SAFETY: contract of the trait.
            let [a, b, c, d] = unsafe { p.add(i * STRIDE).cast::<[u8; 4]>().read() };
            (first[i], second[i]) = (half([a, b]), half([c, d]));
        }
        (Plain(first), Plain(second))
    }

    #[inline(always)]
    unsafe fn half(bytes: [u8; 2]) -> f32 {
        half(bytes)
    }
}
