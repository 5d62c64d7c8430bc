//! A folder with an adapter, in PEFT's form or in MLX-LM's.

use std::path::{Path, PathBuf};

use super::adapter::{AdapterFile, WEIGHTS_FILE};
use super::mlx;
use crate::Result;

/// The weights of the adapter in `folder`.
pub(crate) fn weights_path(folder: &Path) -> PathBuf {
    folder.join(if mlx::is_adapter(folder) { mlx::WEIGHTS_FILE } else { WEIGHTS_FILE })
}

impl AdapterFile {
    /// Reads the adapter in `folder`, PEFT's or MLX-LM's; its tensors may be F32, F16 or BF16.
    pub fn read(folder: &Path) -> Result<Self> {
        if mlx::is_adapter(folder) { mlx::read(folder) } else { AdapterFile::read_peft(folder) }
    }
}
