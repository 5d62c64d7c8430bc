//! Numbers: tensors, frozen weights in block formats, and training ops.
//!
//! This crate knows no model, no file and no configuration. Every op lives in a folder of [`ops`]: the contract
//! (shapes, dtypes) in `mod.rs`, plain loops that the tests trust in `reference.rs`, the fast version in `cpu.rs`,
//! forward and backward side by side. The [`Device`] that is passed by hand picks between them.
//!
//! Dimensions, everywhere: `T` packed tokens of a micro-batch, `S` segments in it, `D` hidden, `H`/`G` query/kv
//! heads, `F` ffn, `V` vocabulary, `R` rank, `N`/`K` out/in of a linear, `M` rows.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod dtype;
pub mod error;

mod ahead;
mod arena;
pub mod cpu;
pub mod device;
pub mod heap;
pub mod tensor;
pub mod threads;

pub mod quant;

pub mod ops;
pub mod rng;

pub use device::{Ctx, Device};
pub use dtype::{DType, Precision};
pub use error::{Error, Result};
pub use quant::Weight;
pub use tensor::Tensor;
pub use threads::Threads;
