//! Fine-tuning of language models with full fine-tuning, LoRA and QLoRA.
//!
//! Modules stand in the order in which data travels: a run file is read, text becomes batches, batches go through
//! the frozen network with its trainable part, the loss and the optimizer change that part, and it is written down.

pub mod error;
mod file_kind;
mod json;
pub mod run_config;

pub mod base;
pub mod memory;

pub mod data;

pub mod model;

pub mod lora;

pub mod loss;

pub mod optim;

pub mod train;

pub mod checkpoint;

pub mod merge;

pub mod generate;

pub use error::{Error, Result};
