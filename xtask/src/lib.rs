//! What developers of ferrotune run: `cargo xtask <task>`.

pub mod golden;
pub mod interop;
pub mod tiny_model;
