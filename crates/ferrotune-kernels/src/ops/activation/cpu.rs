//! Vectorised, split over the threads.

use super::Activation;
use crate::cpu::math::{sigmoid, tanh};
use crate::cpu::out::Out;
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, Isa, per_isa};
use crate::tensor::Tensor;

/// Elements handled at a time: inputs may need widening into a buffer on the stack.
const BLOCK: usize = 512;

/// `sqrt(2 / pi)`.
const C: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// `(act(x), act'(x))` of SiLU.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

/// `(act(x), act'(x))` of GELU in the tanh approximation.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let t = tanh(C * (x + CUBIC * x * x * x));
    let slope = C * (1.0 + 3.0 * CUBIC * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
}

#[inline(always)]
fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32) {
    for i in 0..y.len() {
        y[i] = f(x[i]);
    }
}

#[inline(always)]
fn products(
    g: &[f32],
    u: &[f32],
    dy: &[f32],
    (dg, du): (&mut [f32], &mut [f32]),
    f: impl Fn(f32) -> (f32, f32),
) {
    let n = dg.len();
    let (g, u, dy, du) = (&g[..n], &u[..n], &dy[..n], &mut du[..n]);
    for i in 0..n {
        let (value, slope) = f(g[i]);
        du[i] = dy[i] * value;
        dg[i] = dy[i] * u[i] * slope;
    }
}

// The function is chosen outside the loops, so that each of them is vectorised for its own.
per_isa! {
    /// `y = act(x)`.
    fn value(act: Activation, x: &[f32], y: &mut [f32]) {
        match act {
            Activation::Silu => map(x, y, |x| silu(x).0),
            Activation::GeluTanh => map(x, y, |x| gelu(x).0),
        }
    }
}

per_isa! {
    /// `y = act'(x)`.
    fn slope(act: Activation, x: &[f32], y: &mut [f32]) {
        match act {
            Activation::Silu => map(x, y, |x| silu(x).1),
            Activation::GeluTanh => map(x, y, |x| gelu(x).1),
        }
    }
}

per_isa! {
    fn gated_slopes(act: Activation, g: &[f32], u: &[f32], dy: &[f32], dg: &mut [f32], du: &mut [f32]) {
        match act {
            Activation::Silu => products(g, u, dy, (dg, du), silu),
            Activation::GeluTanh => products(g, u, dy, (dg, du), gelu),
        }
    }
}

per_isa! {
    fn multiply(y: &mut [f32], by: &[f32]) {
        for (y, by) in y.iter_mut().zip(by) {
            *y *= by;
        }
    }
}

pub(super) fn forward(cpu: &Cpu, act: Activation, x: &Tensor, y: &mut Tensor) {
    let (n, y) = (y.len(), Out::from(y));
    each_block(cpu, n, |isa, at, len, [x_block, spare, ..]| {
        Mat::from(x).read(isa, 0, at, x_block);
        // SAFETY: blocks are disjoint.
        unsafe { y.write(isa, at, len, spare, |y| value(isa, act, x_block, y)) };
    });
}

pub(super) fn backward(cpu: &Cpu, act: Activation, x: &Tensor, dy: &[f32], dx: &mut Tensor) {
    let (n, dx) = (dx.len(), Out::from(dx));
    each_block(cpu, n, |isa, at, len, [x_block, spare, ..]| {
        Mat::from(x).read(isa, 0, at, x_block);
        let fill = |dx: &mut [f32]| {
            slope(isa, act, x_block, dx);
            multiply(isa, dx, &dy[at..]);
        };
        // SAFETY: blocks are disjoint.
        unsafe { dx.write(isa, at, len, spare, fill) };
    });
}

pub(super) fn gated(cpu: &Cpu, act: Activation, gate: &Tensor, up: &Tensor, y: &mut Tensor) {
    let (n, y) = (y.len(), Out::from(y));
    each_block(cpu, n, |isa, at, len, [block, spare, ..]| {
        let fill = |y: &mut [f32]| {
            Mat::from(gate).read(isa, 0, at, block);
            value(isa, act, block, y);
            Mat::from(up).read(isa, 0, at, block);
            multiply(isa, y, block);
        };
        // SAFETY: blocks are disjoint.
        unsafe { y.write(isa, at, len, spare, fill) };
    });
}

pub(super) fn gated_backward(
    cpu: &Cpu,
    act: Activation,
    gate: &Tensor,
    up: &Tensor,
    dy: &[f32],
    dgate: &mut Tensor,
    dup: &mut Tensor,
) {
    let (n, dgate, dup) = (dgate.len(), Out::from(dgate), Out::from(dup));
    each_block(cpu, n, |isa, at, len, [g, u, spare_g, spare_u]| {
        let dy = &dy[at..at + len];
        Mat::from(gate).read(isa, 0, at, g);
        Mat::from(up).read(isa, 0, at, u);
        // SAFETY: blocks are disjoint.
        unsafe {
            dgate.write(isa, at, len, spare_g, |dgate| {
                dup.write(isa, at, len, spare_u, |dup| {
                    gated_slopes(isa, act, g, u, dy, dgate, dup);
                });
            });
        }
    });
}

/// Calls `f(isa, first element, number, buffers)` for blocks of at most [`BLOCK`] elements.
fn each_block(cpu: &Cpu, len: usize, f: impl Fn(Isa, usize, usize, [&mut [f32]; 4]) + Sync) {
    let isa = cpu.isa();
    cpu.run_ranges(len, 8 * BLOCK, |range| {
        let mut buffers = [[0.0; BLOCK]; 4];
        for at in range.clone().step_by(BLOCK) {
            let n = (range.end - at).min(BLOCK);
            f(isa, at, n, buffers.each_mut().map(|b| &mut b[..n]));
        }
    });
}
