//! Files: model folders, GGUF files and adapters are opened and written here.

pub mod adapter;
pub mod adapter_folder;
pub mod atomic;
mod checkpoint;
mod columns;
mod fingerprint;
pub(crate) mod folder;
mod fp8;
mod generation_config;
mod gguf;
pub mod hash;
pub(crate) mod kept_files;
pub mod mlx;
pub mod mmap;
pub mod quantized;
pub mod safetensors;
mod shapes;
mod source;

pub use atomic::write_atomic;
pub use checkpoint::Checkpoint;
pub use fingerprint::Change;
pub(crate) use generation_config::GENERATION_CONFIG;
pub use generation_config::GenerationConfig;

/// Whether GGUF files of a family are read, by its `model_type`.
pub fn reads_gguf(model_type: &str) -> bool {
    gguf::reads(model_type)
}
