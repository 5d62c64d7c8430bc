//! Rotary position embedding: pairs of elements of a head are rotated by angles that grow with the position.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// Which elements of the rotated part (`n` of them) make a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// `i` and `i + n/2`, as Llama's checkpoints on the hub have it.
    Halves,
    /// `2 i` and `2 i + 1`, as the paper has it (RoFormer, arXiv 2104.09864).
    Neighbours,
}

/// A rotation: cosines and sines `[positions, n / 2]`, and what they rotate.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Cosines.
    pub cos: &'a Tensor,
    /// Sines.
    pub sin: &'a Tensor,
    /// The elements of a pair.
    pub pairs: Pairs,
}

/// Rotates the first `2 * cos.cols()` elements of every head of `x` `[T, heads * head_dim]`, f32; gives it in `dtype`.
///
/// Row `t` of `x` uses row `positions[t]` of cosines and sines.
pub fn forward(
    dev: &Device,
    x: Tensor,
    head_dim: usize,
    positions: &[u32],
    turn: Turn<'_>,
    dtype: DType,
) -> Result<Tensor> {
    rotate(dev, x, head_dim, positions, turn, 1.0, dtype)
}

/// Rotates the gradient back.
pub fn backward(
    dev: &Device,
    dx: Tensor,
    head_dim: usize,
    positions: &[u32],
    turn: Turn<'_>,
    dtype: DType,
) -> Result<Tensor> {
    rotate(dev, dx, head_dim, positions, turn, -1.0, dtype)
}

fn rotate(
    dev: &Device,
    mut x: Tensor,
    head_dim: usize,
    positions: &[u32],
    turn: Turn<'_>,
    sign: f32,
    dtype: DType,
) -> Result<Tensor> {
    let Turn { cos, sin, .. } = turn;
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
            reference::rotate(x.host_f32_mut(), head_dim, positions, turn, sign);
            if let Some(narrow) = &mut narrow {
                narrow.set(x.host_f32());
            }
        }
        Device::Cpu(c) => {
            cpu::rotate(c, x.host_f32_mut(), head_dim, positions, turn, sign, narrow.as_mut());
        }
    }
    Ok(narrow.unwrap_or(x))
}
