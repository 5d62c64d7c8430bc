//! Where rows came from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Where it was.
    pub path: PathBuf,
    /// SHA-256 of its bytes in hexadecimal: what a run was trained on can be told later.
    pub sha256: String,
}
