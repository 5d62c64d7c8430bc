//! Rows of a table by token id.

mod cpu;
mod reference;

use super::linear::Matrix;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// `y[t] = table[tokens[t]] * scale` as f32 `[T, D]`; the table is `[V, D]`.
pub fn forward(dev: &Device, table: Matrix<'_>, tokens: &[u32], scale: f32) -> Result<Tensor> {
    check(table.rows(), tokens)?;
    let mut y = dev.empty(tokens.len(), table.cols());
    match dev {
        Device::Reference(_) => reference::forward(table, tokens, scale, y.host_f32_mut()),
        Device::Cpu(c) => cpu::forward(c, table, tokens, scale, y.host_f32_mut()),
    }
    Ok(y)
}

/// `dtable[tokens[t]] += dy[t] * scale`.
pub fn backward(dev: &Device, dy: &Tensor, tokens: &[u32], scale: f32, dtable: &mut Tensor) -> Result<()> {
    super::expect("embedding", "dy", dy, [tokens.len(), dtable.cols()])?;
    check(dtable.rows(), tokens)?;
    match dev {
        Device::Reference(_) => reference::backward(dy.host_f32(), tokens, scale, dtable),
        Device::Cpu(c) => cpu::backward(c, dy.host_f32(), tokens, scale, dtable),
    }
    Ok(())
}

fn check(vocabulary: usize, tokens: &[u32]) -> Result<()> {
    match tokens.iter().find(|t| **t as usize >= vocabulary) {
        Some(t) => Err(Error::Unsupported {
            what: "token id",
            found: format!("{t} with a vocabulary of {vocabulary}"),
            allowed: "ids below the rows of the embedding table",
        }),
        None => Ok(()),
    }
}
