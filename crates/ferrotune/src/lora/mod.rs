//! The trainable part: which modules get a low-rank branch, what else is trained, and the parameters of it all.

pub mod adapter;
pub mod algebra;
pub mod config;
mod convert;
mod experts;
mod init;
pub mod kinds;
mod layout;
#[allow(clippy::disallowed_methods, reason = "opens an adapter's folder")]
pub mod peft;
mod svd;
pub mod targets;

pub use adapter::Adapter;
pub use config::{Init, LoraConfig, TrainedBiases};
pub use targets::Targets;
