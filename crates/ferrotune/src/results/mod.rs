//! What a run leaves: its folder, checkpoints to resume from, adapters and model folders.

pub mod manifest;
pub mod model_folder;
pub mod quantized_folder;
pub mod run_folder;
mod stacked;
pub mod stops;
pub mod train_state;
pub mod trained_beside;
