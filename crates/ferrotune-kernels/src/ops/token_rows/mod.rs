//! Trained rows in the place of some rows of a frozen table (PEFT's trainable tokens).
//!
//! The rows are R `[J, D]`, row `j` for token `ids[j]`; ids are distinct.
//!
//! In an embedding, `y[t] = R[j] * scale` where `tokens[t] = ids[j]`, and other rows stay; the backward adds
//! `dy[t] * scale` to `dR[j]`. In a head that shares the table, logits `Y[:, ids] = X Rt`: [`head_forward`] and
//! [`head_backward`], which also takes these columns out of `dY` so that the frozen table gets none of their gradient.

mod cpu;
mod reference;

use super::expect;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The trained rows.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The token of each row.
    pub ids: &'a [u32],
    /// `R [J, D]`.
    pub rows: &'a Tensor,
}

/// Overwrites the rows of `y [T, D]` whose tokens are trained.
pub fn forward(dev: &Device, r: Rows<'_>, tokens: &[u32], scale: f32, y: &mut Tensor) -> Result<()> {
    check(r)?;
    expect("token_rows", "y", y, [tokens.len(), r.rows.cols()])?;
    let places = places(r.ids, tokens);
    match dev {
        Device::Reference(_) => reference::forward(r.rows, &places, scale, y),
        Device::Cpu(c) => cpu::forward(c, r.rows, &places, scale, y),
    }
    Ok(())
}

/// Adds the gradient of the trained rows to `dr [J, D]`.
pub fn backward(
    dev: &Device,
    ids: &[u32],
    tokens: &[u32],
    scale: f32,
    dy: &Tensor,
    dr: &mut Tensor,
) -> Result<()> {
    expect("token_rows", "dR", dr, [ids.len(), dy.cols()])?;
    expect("token_rows", "dy", dy, [tokens.len(), dr.cols()])?;
    let places = places(ids, tokens);
    match dev {
        Device::Reference(_) => reference::backward(&places, scale, dy, dr),
        Device::Cpu(c) => cpu::backward(c, &places, scale, dy, dr),
    }
    Ok(())
}

/// Overwrites the columns `ids` of `y [M, V]` with `X Rt`; X is `[M, D]`.
pub fn head_forward(dev: &Device, r: Rows<'_>, x: &Tensor, y: &mut Tensor) -> Result<()> {
    check(r)?;
    expect("token_rows", "x", x, [y.rows(), r.rows.cols()])?;
    check_ids(r.ids, y.cols())?;
    let xs = x.to_vec();
    match dev {
        Device::Reference(_) => reference::head_forward(r, &xs, y),
        Device::Cpu(c) => cpu::head_forward(c, r, &xs, y),
    }
    Ok(())
}

/// Moves the columns `ids` of `dy [M, V]` out (they become zero) and adds their share to `dx [M, D]` and `dr [J, D]`.
pub fn head_backward(
    dev: &Device,
    r: Rows<'_>,
    x: &Tensor,
    dy: &mut Tensor,
    dx: Option<&mut Tensor>,
    dr: Option<&mut Tensor>,
) -> Result<()> {
    check(r)?;
    expect("token_rows", "x", x, [dy.rows(), r.rows.cols()])?;
    check_ids(r.ids, dy.cols())?;
    if let Some(dx) = &dx {
        expect("token_rows", "dx", dx, x.shape())?;
    }
    if let Some(dr) = &dr {
        expect("token_rows", "dR", dr, r.rows.shape())?;
    }
    match dev {
        Device::Reference(_) => {
            reference::head_backward(r.rows, &x.to_vec(), &take_columns(r.ids, dy), dx, dr);
        }
        Device::Cpu(c) => cpu::head_backward(c, r.rows, &x.to_vec(), &take_columns(r.ids, dy), dx, dr),
    }
    Ok(())
}

/// The columns as `[M, J]`; zero afterwards.
fn take_columns(ids: &[u32], dy: &mut Tensor) -> Vec<f32> {
    let cols = dy.cols();
    let mut out = Vec::with_capacity(dy.rows() * ids.len());
    for row in dy.host_f32_mut().chunks_exact_mut(cols) {
        out.extend(ids.iter().map(|id| std::mem::take(&mut row[*id as usize])));
    }
    out
}

/// `(t, j)` wherever `tokens[t] = ids[j]`, in the order of the tokens.
fn places(ids: &[u32], tokens: &[u32]) -> Vec<(usize, usize)> {
    let index: std::collections::HashMap<u32, usize> =
        ids.iter().enumerate().map(|(j, id)| (*id, j)).collect();
    tokens.iter().enumerate().filter_map(|(t, id)| Some((t, *index.get(id)?))).collect()
}

fn check(r: Rows<'_>) -> Result<()> {
    expect("token_rows", "R", r.rows, [r.ids.len(), r.rows.cols()])
}

fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => Err(Error::Unsupported {
            what: "token id",
            found: format!("{id} with a vocabulary of {vocabulary}"),
            allowed: "ids below the columns of the logits",
        }),
        None => Ok(()),
    }
}
