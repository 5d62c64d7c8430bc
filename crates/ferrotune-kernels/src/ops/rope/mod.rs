//! Rotary position embedding in the split-half form: element `i` is rotated with element `i + n/2` of its head.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Rotates the first `2 * cos.cols()` elements of every head of `x` `[T, heads * head_dim]`, f32; gives it in `dtype`.
///
/// `cos` and `sin` are `[positions, rotary/2]`; row `t` of `x` uses their row `positions[t]`.
pub fn forward(
    dev: &Device,
    x: Tensor,
    head_dim: usize,
    positions: &[u32],
    (cos, sin): (&Tensor, &Tensor),
    dtype: DType,
) -> Result<Tensor> {
    rotate(dev, x, head_dim, positions, (cos, sin), 1.0, dtype)
}

/// Rotates the gradient back.
pub fn backward(
    dev: &Device,
    dx: Tensor,
    head_dim: usize,
    positions: &[u32],
    (cos, sin): (&Tensor, &Tensor),
    dtype: DType,
) -> Result<Tensor> {
    rotate(dev, dx, head_dim, positions, (cos, sin), -1.0, dtype)
}

fn rotate(
    dev: &Device,
    mut x: Tensor,
    head_dim: usize,
    positions: &[u32],
    (cos, sin): (&Tensor, &Tensor),
    sign: f32,
    dtype: DType,
) -> Result<Tensor> {
    expect("rope", "sin", sin, cos.shape())?;
    expect("rope", "x", &x, [positions.len(), x.cols()])?;
    let allowed = "positions inside the table, heads that hold the rotated part";
    if !x.cols().is_multiple_of(head_dim) || 2 * cos.cols() > head_dim {
        let found = format!("{} columns in heads of {head_dim}, {} rotated", x.cols(), 2 * cos.cols());
        return Err(Error::Unsupported { what: "rope", found, allowed });
    }
    if let Some(p) = positions.iter().find(|p| **p as usize >= cos.rows()) {
        let found = format!("position {p} of {}", cos.rows());
        return Err(Error::Unsupported { what: "rope", found, allowed });
    }
    let mut narrow = (dtype != DType::F32).then(|| dev.uninit(x.rows(), x.cols(), dtype));
    match dev {
        Device::Reference(_) => {
            reference::rotate(x.host_f32_mut(), head_dim, positions, cos, sin, sign);
            if let Some(narrow) = &mut narrow {
                narrow.set(x.host_f32());
            }
        }
        Device::Cpu(c) => {
            cpu::rotate(c, x.host_f32_mut(), head_dim, positions, (cos, sin), sign, narrow.as_mut());
        }
    }
    Ok(narrow.unwrap_or(x))
}
