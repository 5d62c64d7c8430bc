//! What a network is: `config.json`, the families that read it, and the architecture that it describes.

pub mod architecture;
pub mod config;
pub mod families;
pub mod tree;
pub mod wrappers;
