//! What the CPU versions of ops share: the instruction set chosen at run time, work splitting, and GEMM.

pub(crate) mod blocks;
pub(crate) mod dots;
mod four_bit;
pub mod gemm;
pub(crate) mod left;
pub mod math;
pub(crate) mod microkernel;
pub(crate) mod out;
pub(crate) mod panel;
pub mod speed;
pub(crate) mod tiles;
pub(crate) mod transpose;
pub(crate) mod words;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::tensor::{Pool, Tensor};
pub(crate) use crate::threads::SharedMut;
use crate::threads::Threads;

/// Instruction sets with kernels of their own, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust that any CPU runs.
    Portable,
    /// NEON, which every 64-bit Arm has.
    Neon,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with `vdpbf16ps`.
    Avx512Bf16,
}

impl Isa {
    /// Every instruction set, slowest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];

    /// The best one that this CPU has.
    pub fn detect() -> Isa {
        Self::ALL.into_iter().rev().find(|isa| isa.available()).unwrap_or(Isa::Portable)
    }

    /// Whether this CPU has it.
    pub fn available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            match self {
                Isa::Portable => true,
                Isa::Neon => false,
                Isa::Avx2 => avx2,
                Isa::Avx512 => avx512,
                Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            self == Isa::Portable || cfg!(target_arch = "aarch64") && self == Isa::Neon
        }
    }

    /// The name that options and reports use.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512-bf16",
        }
    }

    /// Whether bf16 products are made in hardware; without it bf16 is only a rounding of the inputs.
    pub fn has_bf16(self) -> bool {
        self == Isa::Avx512Bf16
    }
}

/// Threads, instruction set and buffer pool of a CPU device.
#[derive(Debug, Clone)]
pub struct Cpu {
    threads: Threads,
    isa: Isa,
    pool: Arc<Pool>,
}

impl Cpu {
    /// A device of `threads` threads; refuses an instruction set that this CPU does not have.
    pub fn new(threads: usize, isa: Isa) -> Result<Self> {
        if !isa.available() {
            let what = "instruction set";
            return Err(Error::Unsupported { what, found: isa.name().into(), allowed: Isa::detect().name() });
        }
        Ok(Cpu { threads: Threads::new(threads)?, isa, pool: Arc::default() })
    }

    /// Who does the work.
    pub fn threads(&self) -> &Threads {
        &self.threads
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Where buffers come from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
}

/// Elements worth handing to a thread, if little is done with each.
pub(crate) const GRAIN: usize = 32 * 1024;

/// Rows worth handing to a thread.
pub(crate) fn row_grain(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// `sum [rows, G d]`: sums of the `count` neighbouring blocks of `d` columns of `wide [rows, G count d]`, in their order.
pub(crate) fn add_blocks(cpu: &Cpu, wide: &[f32], count: usize, d: usize, sum: &mut Tensor) {
    let (rows, width) = (sum.rows(), sum.cols());
    let sum = SharedMut::new(sum.host_f32_mut());
    cpu.threads().run_ranges(rows, 16, |range| {
        for row in range {
            // SAFETY: ranges are disjoint, so a row belongs to one task.
            let sums = unsafe { sum.slice(row * width..(row + 1) * width) };
            let all = &wide[row * count * width..][..count * width];
            for (sum, blocks) in sums.chunks_exact_mut(d).zip(all.chunks_exact(count * d)) {
                sum.copy_from_slice(&blocks[..d]);
                for one in blocks.chunks_exact(d).skip(1) {
                    sum.iter_mut().zip(one).for_each(|(s, v)| *s += v);
                }
            }
        }
    });
}

/// Compiles a function once per instruction set and picks at run time by its first argument, an [`Isa`].
///
/// The body is plain Rust that the compiler vectorises for each target; reductions must spell out their lanes.
macro_rules! per_isa {
    ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        $vis fn $name(isa: $crate::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match isa {
                // NEON is what the compiler has by itself where there is one.
                $crate::cpu::Isa::Portable | $crate::cpu::Isa::Neon => body($($arg),*),
                // SAFETY: an `Isa` in use was checked against the CPU by `Cpu::new`.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                _ => unsafe { avx512($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => body($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_is_among_the_available() {
        assert!(Isa::detect().available());
        assert!(Isa::Portable.available());
    }
}
