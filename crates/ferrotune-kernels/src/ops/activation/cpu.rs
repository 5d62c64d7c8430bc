//! Vectorised, split over the threads.

use half::bf16;

use super::Activation;
use crate::cpu::dots::Element;
use crate::cpu::math::{sigmoid, tanh};
use crate::cpu::out::Out;
use crate::cpu::{Cpu, Isa, per_isa};
use crate::dtype::DType;
use crate::tensor::Tensor;

/// Elements handled at a time: outputs may need rounding from a buffer on the stack.
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

/// `(act(x), act'(x))` of the sigmoid.
#[inline(always)]
fn logistic(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (s, s * (1.0 - s))
}

/// `(act(x), act'(x))` of GELU in the tanh approximation.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let t = tanh(C * (x + CUBIC * x * x * x));
    let slope = C * (1.0 + 3.0 * CUBIC * x * x);
    (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
}

/// `(y, dy/dg, dy/du)` of `(u + 1) g / (1 + e^(-alpha g))` inside the limits, beyond which nothing changes.
#[inline(always)]
fn clamped(alpha: f32, limit: f32, g: f32, u: f32) -> (f32, f32, f32) {
    let (g_in, u_in) = (if g < limit { g } else { limit }, u.clamp(-limit, limit));
    let s = sigmoid(alpha * g_in);
    let swish = g_in * s;
    let slope = s * (1.0 + alpha * g_in * (1.0 - s));
    let dg = if g <= limit { (u_in + 1.0) * slope } else { 0.0 };
    let du = if u.abs() <= limit { swish } else { 0.0 };
    ((u_in + 1.0) * swish, dg, du)
}

#[inline(always)]
fn clamp_gate<T: Element>(alpha: f32, limit: f32, g: &[T], u: &[T], y: &mut [f32]) {
    let n = y.len();
    let (g, u) = (&g[..n], &u[..n]);
    for i in 0..n {
        y[i] = clamped(alpha, limit, g[i].value(), u[i].value()).0;
    }
}

#[inline(always)]
fn clamp_products<T: Element>(
    (alpha, limit): (f32, f32),
    g: &[T],
    u: &[T],
    dy: &[f32],
    (dg, du): (&mut [f32], &mut [f32]),
) {
    let n = dg.len();
    let (g, u, dy, du) = (&g[..n], &u[..n], &dy[..n], &mut du[..n]);
    for i in 0..n {
        let (_, by_gate, by_up) = clamped(alpha, limit, g[i].value(), u[i].value());
        dg[i] = dy[i] * by_gate;
        du[i] = dy[i] * by_up;
    }
}

#[inline(always)]
fn map<T: Element>(x: &[T], y: &mut [f32], f: impl Fn(f32) -> f32) {
    let x = &x[..y.len()];
    for i in 0..y.len() {
        y[i] = f(x[i].value());
    }
}

#[inline(always)]
fn gate<T: Element>(g: &[T], u: &[T], y: &mut [f32], f: impl Fn(f32) -> f32) {
    let n = y.len();
    let (g, u) = (&g[..n], &u[..n]);
    for i in 0..n {
        y[i] = f(g[i].value()) * u[i].value();
    }
}

#[inline(always)]
fn products<T: Element>(
    g: &[T],
    u: &[T],
    dy: &[f32],
    (dg, du): (&mut [f32], &mut [f32]),
    f: impl Fn(f32) -> (f32, f32),
) {
    let n = dg.len();
    let (g, u, dy, du) = (&g[..n], &u[..n], &dy[..n], &mut du[..n]);
    for i in 0..n {
        let (value, slope) = f(g[i].value());
        du[i] = dy[i] * value;
        dg[i] = dy[i] * u[i].value() * slope;
    }
}

/// The loops for one type of elements. The function is chosen outside the loops, so that each of them is vectorised for
/// its own.
macro_rules! loops {
    ($module:ident, $t:ty) => {
        mod $module {
            use super::*;

            per_isa! {
                /// `y = act(x)`.
                pub(super) fn value(act: Activation, x: &[$t], y: &mut [f32]) {
                    match act {
                        Activation::Silu => map(x, y, |x| silu(x).0),
                        Activation::Sigmoid => map(x, y, |x| logistic(x).0),
                        Activation::GeluTanh => map(x, y, |x| gelu(x).0),
                        Activation::ClampedSwish { alpha, limit } => {
                            map(x, y, |x| clamped(alpha, limit, x, 0.0).0)
                        }
                    }
                }
            }

            per_isa! {
                /// `y = act'(x)`.
                pub(super) fn slope(act: Activation, x: &[$t], y: &mut [f32]) {
                    match act {
                        Activation::Silu => map(x, y, |x| silu(x).1),
                        Activation::Sigmoid => map(x, y, |x| logistic(x).1),
                        Activation::GeluTanh => map(x, y, |x| gelu(x).1),
                        Activation::ClampedSwish { alpha, limit } => {
                            map(x, y, |x| clamped(alpha, limit, x, 0.0).1)
                        }
                    }
                }
            }

            per_isa! {
                /// `y = act(g) u`.
                pub(super) fn gated(act: Activation, g: &[$t], u: &[$t], y: &mut [f32]) {
                    match act {
                        Activation::Silu => gate(g, u, y, |x| silu(x).0),
                        Activation::Sigmoid => gate(g, u, y, |x| logistic(x).0),
                        Activation::GeluTanh => gate(g, u, y, |x| gelu(x).0),
                        Activation::ClampedSwish { alpha, limit } => clamp_gate(alpha, limit, g, u, y),
                    }
                }
            }

            per_isa! {
                pub(super) fn gated_slopes(
                    act: Activation,
                    g: &[$t],
                    u: &[$t],
                    dy: &[f32],
                    dg: &mut [f32],
                    du: &mut [f32],
                ) {
                    match act {
                        Activation::Silu => products(g, u, dy, (dg, du), silu),
                        Activation::Sigmoid => products(g, u, dy, (dg, du), logistic),
                        Activation::GeluTanh => products(g, u, dy, (dg, du), gelu),
                        Activation::ClampedSwish { alpha, limit } => {
                            clamp_products((alpha, limit), g, u, dy, (dg, du))
                        }
                    }
                }
            }
        }
    };
}

loops!(wide, f32);
loops!(narrow, bf16);

per_isa! {
    fn multiply(y: &mut [f32], by: &[f32]) {
        for (y, by) in y.iter_mut().zip(by) {
            *y *= by;
        }
    }
}

pub(super) fn forward(cpu: &Cpu, act: Activation, x: &Tensor, y: &mut Tensor) {
    let (n, y) = (y.len(), Out::from(y));
    each_block(cpu, n, |isa, at, len, [spare, _]| {
        let fill = |y: &mut [f32]| match x.dtype() {
            DType::F32 => wide::value(isa, act, &x.host_f32()[at..], y),
            _ => narrow::value(isa, act, &x.host_bf16()[at..], y),
        };
        // SAFETY: blocks are disjoint.
        unsafe { y.write(isa, at, len, spare, fill) };
    });
}

pub(super) fn backward(cpu: &Cpu, act: Activation, x: &Tensor, dy: &[f32], dx: &mut Tensor) {
    let (n, dx) = (dx.len(), Out::from(dx));
    each_block(cpu, n, |isa, at, len, [spare, _]| {
        let fill = |dx: &mut [f32]| {
            match x.dtype() {
                DType::F32 => wide::slope(isa, act, &x.host_f32()[at..], dx),
                _ => narrow::slope(isa, act, &x.host_bf16()[at..], dx),
            }
            multiply(isa, dx, &dy[at..]);
        };
        // SAFETY: blocks are disjoint.
        unsafe { dx.write(isa, at, len, spare, fill) };
    });
}

pub(super) fn gated(cpu: &Cpu, act: Activation, gate: &Tensor, up: &Tensor, y: &mut Tensor) {
    let (n, y) = (y.len(), Out::from(y));
    each_block(cpu, n, |isa, at, len, [spare, _]| {
        let fill = |y: &mut [f32]| match gate.dtype() {
            DType::F32 => wide::gated(isa, act, &gate.host_f32()[at..], &up.host_f32()[at..], y),
            _ => narrow::gated(isa, act, &gate.host_bf16()[at..], &up.host_bf16()[at..], y),
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
    each_block(cpu, n, |isa, at, len, [spare_g, spare_u]| {
        let dy = &dy[at..at + len];
        let slopes = |dg: &mut [f32], du: &mut [f32]| match gate.dtype() {
            DType::F32 => {
                wide::gated_slopes(isa, act, &gate.host_f32()[at..], &up.host_f32()[at..], dy, dg, du)
            }
            _ => narrow::gated_slopes(isa, act, &gate.host_bf16()[at..], &up.host_bf16()[at..], dy, dg, du),
        };
        // SAFETY: blocks are disjoint.
        unsafe {
            dgate.write(isa, at, len, spare_g, |dg| dup.write(isa, at, len, spare_u, |du| slopes(dg, du)));
        }
    });
}

/// Calls `f(isa, first element, number, buffers)` for blocks of at most [`BLOCK`] elements.
fn each_block(cpu: &Cpu, len: usize, f: impl Fn(Isa, usize, usize, [&mut [f32]; 2]) + Sync) {
    let isa = cpu.isa();
    cpu.threads().run_ranges(len, 8 * BLOCK, |range| {
        let mut buffers = [[0.0; BLOCK]; 2];
        for at in range.clone().step_by(BLOCK) {
            let n = (range.end - at).min(BLOCK);
            f(isa, at, n, buffers.each_mut().map(|b| &mut b[..n]));
        }
    });
}
