//! SHA-256 of files and of what is in memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// Length and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
}

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(content: &[u8]) -> Self {
        Digest { bytes: content.len() as u64, sha256: hex(&Sha256::digest(content)) }
    }

    /// Reads the whole file. It is read, not mapped, so nothing of it stays in this process's memory.
    pub fn of_file(path: &Path) -> Result<Self> {
        let refused = |e| Error::io(path, e);
        let mut file = File::open(path).map_err(refused)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut bytes = 0;
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(refused(e)),
            };
            hash.update(&buffer[..n]);
            bytes += n as u64;
        }
        Ok(Digest { bytes, sha256: hex(&hash.finalize()) })
    }
}

/// Hexadecimal digits of a hash.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
