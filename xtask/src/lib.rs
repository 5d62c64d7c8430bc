//! What developers of ferrotune run: `cargo xtask <task>`.

pub mod bench;
pub mod bfcl;
pub mod ci;
pub mod data;
pub mod families;
#[cfg(unix)]
pub mod faults;
pub mod golden;
pub mod interop;
pub mod picture;
mod shared;
pub mod tiny_model;
