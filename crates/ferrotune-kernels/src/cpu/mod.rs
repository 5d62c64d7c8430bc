//! What the CPU versions of ops share: the instruction set chosen at run time, work splitting, and GEMM.

pub(crate) mod blocks;
pub(crate) mod dots;
mod four_bit;
pub mod gemm;
pub(crate) mod left;
pub mod math;
pub(crate) mod microkernel;
mod nodes;
pub(crate) mod out;
pub(crate) mod panel;
pub mod speed;
mod team;
pub(crate) mod transpose;
pub(crate) mod words;

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use nodes::{Nodes, Queues};
use team::Team;

use crate::error::{Error, Result};
use crate::tensor::Pool;

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
    threads: usize,
    team: Arc<Team>,
    nodes: Arc<Nodes>,
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
        let team =
            Team::new(threads).map_err(|e| Error::Threads { wanted: threads, problem: e.to_string() })?;
        Ok(Cpu {
            threads: threads.max(1),
            team: Arc::new(team),
            nodes: Arc::new(Nodes::detect()),
            isa,
            pool: Arc::default(),
        })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Where buffers come from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Runs `body(state, task)` for every task on all threads; each thread makes its `state` once.
    ///
    /// Which thread takes which task is not fixed, so tasks must write to disjoint places and must not depend on
    /// each other: that is what makes results independent of the number of threads.
    pub fn run_with<S>(
        &self,
        tasks: usize,
        init: impl Fn() -> S + Sync,
        body: impl Fn(&mut S, usize) + Sync,
    ) {
        if tasks == 0 {
            return;
        }
        if self.threads == 1 || tasks == 1 {
            let mut state = init();
            (0..tasks).for_each(|task| body(&mut state, task));
            return;
        }
        let queues = Queues::new(&self.nodes, tasks);
        self.team.run(&|| {
            let mut mine = queues.take();
            let Some(first) = mine.next() else { return };
            let mut state = init();
            body(&mut state, first);
            mine.for_each(|task| body(&mut state, task));
        });
    }

    /// The memory nodes: loops share out their tasks by place, so tasks that are put together from several matrices are
    /// sorted by theirs.
    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Runs `body(task)` for every task on all threads.
    pub fn run(&self, tasks: usize, body: impl Fn(usize) + Sync) {
        self.run_with(tasks, || (), |(), task| body(task));
    }

    /// Splits `n` items into a few ranges per thread, each at least `grain` long, and runs `body` on each.
    pub fn run_ranges(&self, n: usize, grain: usize, body: impl Fn(Range<usize>) + Sync) {
        let parts = (n / grain.max(1)).clamp(1, self.threads * 4);
        self.run(parts, |i| body(n * i / parts..n * (i + 1) / parts));
    }
}

/// Elements worth handing to a thread, if little is done with each.
pub(crate) const GRAIN: usize = 32 * 1024;

/// Rows worth handing to a thread.
pub(crate) fn row_grain(cols: usize) -> usize {
    (GRAIN / cols.max(1)).max(1)
}

/// A mutable slice whose disjoint parts are written by several tasks.
pub struct SharedMut<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer is only used through `slice`, whose callers promise disjoint ranges.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Borrows `slice` for the time of a parallel loop.
    pub fn new(slice: &'a mut [T]) -> Self {
        SharedMut { ptr: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A pointer to element `start`, after checking that everything up to `end` is inside.
    ///
    /// # Safety
    /// Elements written through it may not be written by another task at the same time.
    pub(crate) unsafe fn base_within(&self, start: usize, end: usize) -> *mut T {
        assert!(start <= end && end <= self.len, "range outside the shared slice");
        // SAFETY: inside the borrowed slice by the check above.
        unsafe { self.ptr.add(start) }
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No two ranges in use at the same time may overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range outside the shared slice");
        // SAFETY: inside the borrowed slice by the check above; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(range.start), range.end - range.start) }
    }
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
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let cpu = Cpu::new(threads, Isa::Portable).unwrap();
            let mut hits = vec![0u32; 1000];
            let shared = SharedMut::new(&mut hits);
            // SAFETY: every task has its own element.
            cpu.run(1000, |i| unsafe { shared.slice(i..i + 1)[0] += 1 });
            assert!(hits.iter().all(|&h| h == 1));
        }
    }

    #[test]
    fn detection_is_among_the_available() {
        assert!(Isa::detect().available());
        assert!(Isa::Portable.available());
    }
}
