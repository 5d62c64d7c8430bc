//! What developers of ferrotune run: `cargo xtask <task>`.

pub mod bench;
pub mod golden;
pub mod interop;
mod shared;
pub mod tiny_model;
