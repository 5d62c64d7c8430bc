//! (to come)

pub mod config;

pub use config::{Activation, ModelConfig, Quantization, RopeScaling};
