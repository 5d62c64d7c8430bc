//! Blocks split over the threads.

use half::bf16;

use super::{BLOCK, scale};
use crate::cpu::words::{narrow_one, widen};
use crate::cpu::{Cpu, Isa, SharedMut, per_isa};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Blocks worth handing to a thread.
const GRAIN: usize = 256;

/// Added to a number below 2^22 and taken away, this leaves the nearest whole number (ties to even), which then also
/// stands in the lowest bits of the sum: `as i8` would compare with NaN and limits first, one value at a time.
const ROUND: f32 = 12_582_912.0;

#[inline(always)]
fn pack_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], bf16) {
    // Magnitudes are ordered as their bits are, and a largest integer needs no care for NaN: one register after the other.
    let largest = x.iter().fold(0, |m, v| u32::max(m, v.to_bits() & 0x7FFF_FFFF));
    let (step, inverse) = scale(f32::from_bits(largest));
    (x.map(|v| (v * inverse + ROUND).to_bits() as i8), narrow_one(step))
}

/// A block of `x`, with zeros where it is shorter.
#[inline(always)]
fn block_of<T: Copy>(x: &[T], wide: &impl Fn(T) -> f32) -> [f32; BLOCK] {
    let mut block = [0.0; BLOCK];
    block.iter_mut().zip(x).for_each(|(b, x)| *b = wide(*x));
    block
}

/// Whole blocks as arrays, whose length the compiler knows; then what is left.
#[inline(always)]
fn pack_all<T: Copy>(x: &[T], codes: &mut [i8], scales: &mut [bf16], wide: impl Fn(T) -> f32) {
    let ((blocks, rest), (whole, left)) = (x.as_chunks::<BLOCK>(), codes.as_chunks_mut::<BLOCK>());
    for ((x, codes), scale) in blocks.iter().zip(whole).zip(&mut *scales) {
        (*codes, *scale) = pack_block(&block_of(x, &wide));
    }
    if let (Some(scale), false) = (scales.last_mut(), rest.is_empty()) {
        let (codes, step) = pack_block(&block_of(rest, &wide));
        left.copy_from_slice(&codes[..left.len()]);
        *scale = step;
    }
}

per_isa! {
    fn pack_wide(x: &[f32], codes: &mut [i8], scales: &mut [bf16]) {
        pack_all(x, codes, scales, #[inline(always)] |x| x);
    }
}

per_isa! {
    fn pack_narrow(x: &[bf16], codes: &mut [i8], scales: &mut [bf16]) {
        pack_all(x, codes, scales, widen);
    }
}

per_isa! {
    fn unpack_wide(codes: &[i8], scales: &[bf16], x: &mut [f32]) {
        for ((x, codes), scale) in x.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(scales) {
            let scale = widen(*scale);
            x.iter_mut().zip(codes).for_each(|(x, c)| *x = *c as f32 * scale);
        }
    }
}

per_isa! {
    fn unpack_narrow(codes: &[i8], scales: &[bf16], x: &mut [bf16]) {
        for ((x, codes), scale) in x.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)).zip(scales) {
            let scale = widen(*scale);
            for (x, c) in x.iter_mut().zip(codes) {
                *x = narrow_one(*c as f32 * scale);
            }
        }
    }
}

pub(super) fn pack(cpu: &Cpu, x: &Tensor, codes: &mut [i8], scales: &mut [bf16]) {
    let (n, isa) = (codes.len(), cpu.isa());
    let blocks = scales.len();
    let (codes, scales) = (SharedMut::new(codes), SharedMut::new(scales));
    cpu.threads().run_ranges(blocks, GRAIN, |r| {
        let values = r.start * BLOCK..n.min(r.end * BLOCK);
        // SAFETY: every block belongs to one task.
        let (codes, scales) = unsafe { (codes.slice(values.clone()), scales.slice(r)) };
        match x.dtype() {
            DType::F32 => pack_wide(isa, &x.host_f32()[values], codes, scales),
            _ => pack_narrow(isa, &x.host_bf16()[values], codes, scales),
        }
    });
}

pub(super) fn unpack(cpu: &Cpu, codes: &[i8], scales: &[bf16], x: &mut Tensor) {
    let isa = cpu.isa();
    match x.dtype() {
        DType::F32 => split(cpu, codes, scales, x.host_f32_mut(), isa, unpack_wide),
        _ => split(cpu, codes, scales, x.host_bf16_mut(), isa, unpack_narrow),
    }
}

fn split<T: Send + Sync>(
    cpu: &Cpu,
    codes: &[i8],
    scales: &[bf16],
    x: &mut [T],
    isa: Isa,
    unpack: fn(Isa, &[i8], &[bf16], &mut [T]),
) {
    let x = SharedMut::new(x);
    cpu.threads().run_ranges(scales.len(), GRAIN, |r| {
        let values = r.start * BLOCK..codes.len().min(r.end * BLOCK);
        // SAFETY: every block belongs to one task.
        unpack(isa, &codes[values.clone()], &scales[r], unsafe { x.slice(values) });
    });
}
