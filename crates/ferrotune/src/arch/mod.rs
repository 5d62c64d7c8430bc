//! What a network is, before any of it is loaded: a model's `config.json`, and the family that reads it.

pub mod config;
pub mod families;

pub use config::{ModelConfig, RopeScaling};
