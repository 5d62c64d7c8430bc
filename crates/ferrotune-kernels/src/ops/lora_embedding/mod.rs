//! A low-rank branch beside an embedding: `y[t] += s B A[:, tokens[t]]`.
//!
//! Shapes: A `[R, V]`, B `[D, R]` (PEFT's `lora_embedding_A` and `lora_embedding_B`), y `[T, D]`.
//! Backward, with `h[t] = A[:, tokens[t]]`: `dB += s dYt h`, `dA[:, tokens[t]] += s Bt dy[t]`. Tokens have no gradient.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The branch.
#[derive(Clone, Copy)]
pub struct Branch<'a> {
    /// `A [R, V]`.
    pub a: &'a Tensor,
    /// `B [D, R]`.
    pub b: &'a Tensor,
    /// The factor `s`, times what the embedding's rows are multiplied by.
    pub scale: f32,
}

/// Adds the branch's rows to `y`.
pub fn forward(dev: &Device, branch: Branch<'_>, tokens: &[u32], y: &mut Tensor) -> Result<()> {
    check(branch, tokens)?;
    expect("lora_embedding", "y", y, [tokens.len(), branch.b.rows()])?;
    match dev {
        Device::Reference(_) => reference::forward(branch, tokens, y),
        Device::Cpu(c) => cpu::forward(c, branch, tokens, y),
    }
    Ok(())
}

/// Adds the gradients of A and B to `da` and `db`.
pub fn backward(
    dev: &Device,
    branch: Branch<'_>,
    tokens: &[u32],
    dy: &Tensor,
    da: &mut Tensor,
    db: &mut Tensor,
) -> Result<()> {
    check(branch, tokens)?;
    expect("lora_embedding", "dy", dy, [tokens.len(), branch.b.rows()])?;
    expect("lora_embedding", "dA", da, branch.a.shape())?;
    expect("lora_embedding", "dB", db, branch.b.shape())?;
    match dev {
        Device::Reference(_) => reference::backward(branch, tokens, dy, da, db),
        Device::Cpu(c) => cpu::backward(c, branch, tokens, dy, da, db),
    }
    Ok(())
}

fn check(branch: Branch<'_>, tokens: &[u32]) -> Result<()> {
    expect("lora_embedding", "B", branch.b, [branch.b.rows(), branch.a.rows()])?;
    match tokens.iter().find(|t| **t as usize >= branch.a.cols()) {
        Some(t) => Err(Error::Unsupported {
            what: "token id",
            found: format!("{t} with a vocabulary of {}", branch.a.cols()),
            allowed: "ids below the columns of lora_embedding_A",
        }),
        None => Ok(()),
    }
}
