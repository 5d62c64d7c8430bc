use super::{Sinks, Ssd};
use crate::cpu::words::Mat;
use crate::cpu::{Cpu, SharedMut, per_isa, row_grain};
use crate::tensor::Tensor;

/// `g = dt a`.
pub(super) fn decays(cpu: &Cpu, dt: &Tensor, a: &Tensor, g: &mut Tensor) {
    let (dt, a, heads) = (dt.host_f32(), a.host_f32(), dt.cols());
    let (rows, g) = (g.rows(), SharedMut::new(g.host_f32_mut()));
    cpu.threads().run_ranges(rows, row_grain(heads), |range| {
        let range = range.start * heads..range.end * heads;
        // SAFETY: ranges of rows are disjoint.
        let g = unsafe { g.slice(range.clone()) };
        for (g, dt) in g.chunks_exact_mut(heads).zip(dt[range].chunks_exact(heads)) {
            times(cpu.isa(), dt, a, g);
        }
    });
}

/// `y += D x`.
pub(super) fn skip(cpu: &Cpu, x: &Tensor, d: &Tensor, y: &mut Tensor) {
    let (cols, width, mat) = (x.cols(), x.cols() / d.cols(), Mat::from(x));
    let y = SharedMut::new(y.host_f32_mut());
    cpu.threads().run_ranges(x.rows(), row_grain(cols), |range| {
        let mut buffer = cpu.pool().take(cols);
        for row in range {
            let x = &mut buffer.f32_mut()[..cols];
            mat.read(cpu.isa(), row, 0, x);
            // SAFETY: ranges of rows are disjoint.
            let y = unsafe { y.slice(row * cols..(row + 1) * cols) };
            add_times(cpu.isa(), x, d.host_f32(), width, y);
        }
    });
}

/// `ddt += a dg`, `da = sum of dt dg`, `dD = sum of x . dy`: a task owns a head.
pub(super) fn backward(cpu: &Cpu, x: Ssd<'_>, dy: &Tensor, dg: &Tensor, sinks: Sinks<'_>) {
    let (heads, width, dg) = (x.heads.count, x.heads.head_dim, dg.host_f32());
    let Sinks { ddt, da, dd } = sinks;
    let [ddt, da, dd] = [ddt, da, dd].map(|t| SharedMut::new(t.host_f32_mut()));
    let (values, gradients) = (Mat::from(x.x), Mat::from(dy));
    let buffer = || cpu.pool().take(2 * width);
    cpu.threads().run_with(heads, buffer, |buffer, h| {
        let (value, gradient) = buffer.f32_mut()[..2 * width].split_at_mut(width);
        let (mut sum_a, mut sum_d) = (0.0f64, 0.0f64);
        for row in 0..x.x.rows() {
            let at = row * heads + h;
            // SAFETY: the task owns this head's column.
            let ddt = unsafe { ddt.slice(at..at + 1) };
            ddt[0] += x.a.host_f32()[h] * dg[at];
            sum_a += x.dt.host_f32()[at] as f64 * dg[at] as f64;
            values.read(cpu.isa(), row, h * width, value);
            gradients.read(cpu.isa(), row, h * width, gradient);
            sum_d += inner(cpu.isa(), value, gradient) as f64;
        }
        // SAFETY: the task owns this head's elements.
        unsafe {
            da.slice(h..h + 1)[0] = sum_a as f32;
            dd.slice(h..h + 1)[0] = sum_d as f32;
        }
    });
}

per_isa! {
    fn times(x: &[f32], y: &[f32], out: &mut [f32]) {
        for ((o, x), y) in out.iter_mut().zip(x).zip(y) {
            *o = x * y;
        }
    }
}

per_isa! {
    fn add_times(x: &[f32], by: &[f32], width: usize, out: &mut [f32]) {
        for ((out, x), by) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(by) {
            for (o, x) in out.iter_mut().zip(x) {
                *o += by * x;
            }
        }
    }
}

per_isa! {
    fn inner(x: &[f32], y: &[f32]) -> f32 {
        crate::cpu::math::dot(x, y)
    }
}
