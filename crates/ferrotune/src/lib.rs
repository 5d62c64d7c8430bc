//! Fine-tuning of language models with full fine-tuning, LoRA and QLoRA.
//!
//! Modules stand in the order of their layers: each knows those above it in this list, and none below.

pub mod error;
mod file_kind;
mod json;
pub mod units;

pub mod arch;
pub mod formats;

pub mod fetch;

pub mod run_config;

pub mod data;

pub mod model;

pub mod load;

pub mod base;

pub mod lora;

pub mod merge;

pub mod loss;

pub mod memory;

pub mod optim;

pub mod plan;

pub mod results;

pub mod train;

pub mod generate;

pub use error::{Error, Result};
