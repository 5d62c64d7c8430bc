//! Asking for memory before it is read, where the processor does not foresee it: rows that lie far apart, and what follows
//! the end of a page.

/// Bytes by which rows that lie one after the other are asked for.
pub(crate) const BYTES_AHEAD: usize = 8 << 10;

/// Asks for the lines of `bytes` bytes from `place` on: a hint, also beyond the end.
#[inline(always)]
pub(crate) fn ask(place: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every processor of this kind has the instruction, and it reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(line).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for line in (0..bytes).step_by(64) {
        let line = place.wrapping_add(line);
        // SAFETY: a hint reads nothing; it has no intrinsic in the stable language.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) line, options(nostack, preserves_flags, readonly));
        };
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = (place, bytes);
}
