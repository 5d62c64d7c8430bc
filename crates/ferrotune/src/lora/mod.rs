//! The trainable part: which linears get a low-rank branch, and the branches' parameters.

pub mod adapter;
pub mod algebra;
pub mod config;
pub mod peft;
pub mod targets;

pub use adapter::Adapter;
pub use config::{Init, LoraConfig};
pub use targets::Targets;
