//! Sums, copies between storage types, gathering and scattering of rows, and dropout.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::tensor::Tensor;

/// Inverted dropout: an element is kept with probability `1 - p` and then multiplied by `1 / (1 - p)`.
///
/// The decision depends on the stream and the element's index alone, so the backward makes it again.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    /// Probability of zeroing an element, in `[0, 1)`.
    pub p: f32,
    /// Random numbers of this tensor in this step.
    pub stream: Stream,
}

impl Dropout {
    /// The factor of element `index`: 0 or `1 / (1 - p)`.
    #[inline]
    pub fn factor(self, index: usize) -> f32 {
        if self.stream.uniform(index as u64) < self.p { 0.0 } else { 1.0 / (1.0 - self.p) }
    }
}

/// `y += scale x`, both f32 of one shape; the backward of `x` is the same with `x` and `y` exchanged.
pub fn add(dev: &Device, y: &mut Tensor, x: &Tensor, scale: f32) -> Result<()> {
    expect("add", "x", x, y.shape())?;
    match dev {
        Device::Reference(_) => reference::add(y.host_f32_mut(), x.host_f32(), scale),
        Device::Cpu(c) => cpu::add(c, y.host_f32_mut(), x.host_f32(), scale),
    }
    Ok(())
}

/// `y *= scale` for an f32 `y`.
pub fn scale(dev: &Device, y: &mut Tensor, scale: f32) {
    match dev {
        Device::Reference(_) => reference::scale(y.host_f32_mut(), scale),
        Device::Cpu(c) => cpu::scale(c, y.host_f32_mut(), scale),
    }
}

/// Columns `cols` of `x` as a new tensor of the same type.
pub fn columns(dev: &Device, x: &Tensor, cols: std::ops::Range<usize>) -> Result<Tensor> {
    if cols.end > x.cols() || cols.is_empty() {
        let found = format!("{cols:?} of {}", x.cols());
        return Err(Error::Unsupported { what: "columns", found, allowed: "columns of the tensor" });
    }
    let mut y = dev.uninit(x.rows(), cols.len(), x.dtype());
    match dev {
        Device::Reference(_) => reference::copy_columns(x, cols.start, &mut y, 0, cols.len()),
        Device::Cpu(c) => cpu::copy_columns(c, x, cols.start, &mut y, 0, cols.len()),
    }
    Ok(y)
}

/// The parts side by side, all of one type: the backward of [`columns`].
pub fn join(dev: &Device, parts: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = parts.first() else {
        return Err(Error::Unsupported { what: "parts", found: "none".into(), allowed: "one or more" });
    };
    let total = parts.iter().map(|p| p.cols()).sum();
    let mut y = dev.uninit(first.rows(), total, first.dtype());
    let mut at = 0;
    for part in parts {
        expect("join", "part", part, [first.rows(), part.cols()])?;
        if part.dtype() != first.dtype() {
            let found = part.dtype().name().to_string();
            return Err(Error::Unsupported { what: "type of a part", found, allowed: "that of the first" });
        }
        match dev {
            Device::Reference(_) => reference::copy_columns(part, 0, &mut y, at, part.cols()),
            Device::Cpu(c) => cpu::copy_columns(c, part, 0, &mut y, at, part.cols()),
        }
        at += part.cols();
    }
    Ok(y)
}

/// `y[rows[i]] += weights[i] x[i]`, both f32; a row may be named more than once, and is summed in order.
pub fn add_rows(dev: &Device, x: &Tensor, rows: &[u32], weights: &[f32], y: &mut Tensor) -> Result<()> {
    expect("add_rows", "x", x, [rows.len(), y.cols()])?;
    check_rows("row to add to", y, rows)?;
    if weights.len() != rows.len() {
        let found = weights.len().to_string();
        return Err(Error::Unsupported { what: "weights of rows", found, allowed: "one for each" });
    }
    match dev {
        Device::Reference(_) => reference::add_rows(x, rows, weights, y),
        Device::Cpu(c) => cpu::add_rows(c, x, rows, weights, y),
    }
    Ok(())
}

/// The inner product of row `i` of `x` with row `rows[i]` of `y`: the gradient of [`add_rows`] in its weights, for
/// the gradient `y` of its output.
pub fn row_products(dev: &Device, x: &Tensor, rows: &[u32], y: &Tensor) -> Result<Vec<f32>> {
    expect("row_products", "x", x, [rows.len(), y.cols()])?;
    check_rows("row to multiply", y, rows)?;
    Ok(match dev {
        Device::Reference(_) => reference::row_products(x, rows, y),
        Device::Cpu(c) => cpu::row_products(c, x, rows, y),
    })
}

/// `sums += column sums of x` (f32 or bf16): the gradient of a bias, from that of the rows it was added to.
pub fn add_columns(dev: &Device, sums: &mut Tensor, x: &Tensor) -> Result<()> {
    expect("add_columns", "sums", sums, [1, x.cols()])?;
    match dev {
        Device::Reference(_) => reference::add_columns(sums, x),
        Device::Cpu(c) => cpu::add_columns(c, sums, x),
    }
    Ok(())
}

/// A copy of `x` stored as `dtype` (bf16 rounds to nearest even).
pub fn cast(dev: &Device, x: &Tensor, dtype: DType) -> Tensor {
    let mut y = dev.uninit(x.rows(), x.cols(), dtype);
    match dev {
        Device::Reference(_) => reference::cast(x, &mut y),
        Device::Cpu(c) => cpu::cast(c, x, &mut y),
    }
    y
}

/// Rows `rows` of `x` as a new f32 tensor.
pub fn gather(dev: &Device, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    check_rows("row to gather", x, rows)?;
    let mut y = dev.empty(rows.len(), x.cols());
    match dev {
        Device::Reference(_) => reference::gather(x, rows, &mut y),
        Device::Cpu(c) => cpu::gather(c, x, rows, &mut y),
    }
    Ok(y)
}

/// Writes row `i` of the f32 `x` to row `rows[i]` of `y`, rounding if `y` is bf16: the backward of [`gather`] when
/// no row is named twice, and how a cache is filled.
pub fn scatter(dev: &Device, x: &Tensor, rows: &[u32], y: &mut Tensor) -> Result<()> {
    expect("scatter", "x", x, [rows.len(), y.cols()])?;
    check_rows("row to scatter to", y, rows)?;
    match dev {
        // A row may be named twice, and a cache gets few rows: one thread is enough.
        Device::Reference(_) | Device::Cpu(_) => reference::scatter(x, rows, y),
    }
    Ok(())
}

fn check_rows(what: &'static str, t: &Tensor, rows: &[u32]) -> Result<()> {
    match rows.iter().find(|r| **r as usize >= t.rows()) {
        Some(r) => Err(Error::Unsupported {
            what,
            found: format!("{r} of {}", t.rows()),
            allowed: "rows of the tensor",
        }),
        None => Ok(()),
    }
}

/// `x` with dropout as a new f32 tensor.
pub fn dropout(dev: &Device, x: &Tensor, drop: Dropout) -> Tensor {
    let mut y = cast(dev, x, DType::F32);
    dropout_backward(dev, &mut y, drop);
    y
}

/// Multiplies the gradient of dropout's output by the same factors, giving that of its input.
pub fn dropout_backward(dev: &Device, dy: &mut Tensor, drop: Dropout) {
    match dev {
        Device::Reference(_) => reference::dropout(dy.host_f32_mut(), drop),
        Device::Cpu(c) => cpu::dropout(c, dy.host_f32_mut(), drop),
    }
}
