use super::{Sinks, Ssd};
use crate::tensor::Tensor;

/// `g = dt a`.
pub(super) fn decays(dt: &Tensor, a: &Tensor, g: &mut Tensor) {
    let (dt, a, heads) = (dt.host_f32(), a.host_f32(), dt.cols());
    g.host_f32_mut().iter_mut().enumerate().for_each(|(i, g)| *g = dt[i] * a[i % heads]);
}

/// `y += D x`.
pub(super) fn skip(x: &Tensor, d: &Tensor, y: &mut Tensor) {
    let (width, cols) = (x.cols() / d.cols(), x.cols());
    for ((i, y), x) in y.host_f32_mut().iter_mut().enumerate().zip(x.to_vec()) {
        *y += d.host_f32()[i % cols / width] * x;
    }
}

/// `ddt += a dg`, `da = sum of dt dg`, `dD = sum of x . dy`.
pub(super) fn backward(x: Ssd<'_>, dy: &Tensor, dg: &Tensor, sinks: Sinks<'_>) {
    let (heads, width, cols) = (x.heads.count, x.heads.head_dim, x.x.cols());
    let (values, dy, dg) = (x.x.to_vec(), dy.host_f32(), dg.host_f32());
    for h in 0..heads {
        let (mut da, mut dd) = (0.0f64, 0.0f64);
        for row in 0..x.x.rows() {
            let at = row * heads + h;
            sinks.ddt.host_f32_mut()[at] += x.a.host_f32()[h] * dg[at];
            da += x.dt.host_f32()[at] as f64 * dg[at] as f64;
            let of_head = row * cols + h * width..row * cols + (h + 1) * width;
            dd += of_head.map(|i| values[i] as f64 * dy[i] as f64).sum::<f64>();
        }
        (sinks.da.host_f32_mut()[h], sinks.dd.host_f32_mut()[h]) = (da as f32, dd as f32);
    }
}
