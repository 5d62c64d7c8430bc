//! What can go wrong, typed.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something was not brought. Every variant names the thing: the file or the address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// A download did not work.
    #[error("{url}: {problem}")]
    Network {
        /// The address without credentials.
        url: String,
        /// What happened.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
}

impl Error {
    /// An I/O error with its path.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// A file that is not what it should be.
    pub fn file(path: impl AsRef<Path>, problem: impl Into<String>) -> Self {
        Error::File { path: path.as_ref().to_path_buf(), problem: problem.into(), hint: None }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Error::File { hint, .. } | Error::Network { hint, .. } => *hint = Some(text.into()),
            Error::Io { .. } => {}
        }
        self
    }

    /// What the user could do about it, if that was known where the error arose.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Error::File { hint, .. } | Error::Network { hint, .. } => hint.as_deref(),
            Error::Io { .. } => None,
        }
    }
}
