//! What can go wrong, typed. The program prints the message and, under it, `hint:` with [`Error::hint`].

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why ferrotune refused. Every variant names the thing: the file, key, tensor, row or option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// A file is not what it should be: truncated, malformed, of another kind.
    #[error("{}: {problem}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was expected.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// A key of the run file, an override or an option is unknown or has a value that cannot be.
    #[error("{key}: {problem}")]
    Config {
        /// The key, dotted (`train.lr`); where options are not read from a run file, the option's own name.
        key: String,
        /// What was found and what was expected.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// A row of a data set cannot be used.
    #[error("{}:{line}: {problem}", path.display())]
    Data {
        /// The data file.
        path: PathBuf,
        /// The line, from 1; 0 for the file as a whole.
        line: usize,
        /// What was found and what was expected.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// Several rows of a data set cannot be used.
    #[error("{count} of {rows} rows cannot be used:{list}")]
    Rows {
        /// How many.
        count: usize,
        /// Number of all rows.
        rows: usize,
        /// The first of them, each on a line of its own: file, line, what was found and what was expected.
        list: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// A tensor is missing, has the wrong shape or dtype, or is left over.
    #[error("{}: tensor `{name}`: {problem}", path.display())]
    Tensor {
        /// The file or folder it was looked for in.
        path: PathBuf,
        /// The tensor's name.
        name: String,
        /// What was found and what was expected.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// The chat template refused, or is not valid Jinja.
    #[error("chat template: {problem}")]
    Template {
        /// The template's own message (of `raise_exception`), or the parser's.
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
    /// Training cannot go on (a loss that is not finite, memory that does not fit, an interruption).
    #[error("{problem}")]
    Train {
        /// What happened.
        problem: String,
        /// What the user could do.
        hint: Option<String>,
    },
    /// An op or a weight format refused; a bug if it was not a file's fault.
    #[error(transparent)]
    Kernel(#[from] ferrotune_kernels::Error),
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

    /// A key with a value that cannot be.
    pub fn config(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Config { key: key.into(), problem: problem.into(), hint: None }
    }

    /// A row that cannot be used; `line` counts from 1.
    pub fn data(path: impl AsRef<Path>, line: usize, problem: impl Into<String>) -> Self {
        Error::Data { path: path.as_ref().to_path_buf(), line, problem: problem.into(), hint: None }
    }

    /// A tensor that is missing, left over or of the wrong shape.
    pub fn tensor(path: impl AsRef<Path>, name: impl Into<String>, problem: impl Into<String>) -> Self {
        Error::Tensor {
            path: path.as_ref().to_path_buf(),
            name: name.into(),
            problem: problem.into(),
            hint: None,
        }
    }

    /// A run that cannot go on.
    pub fn train(problem: impl Into<String>) -> Self {
        Error::Train { problem: problem.into(), hint: None }
    }

    /// The same error about a key of a section; `section` is where its keys stand.
    #[must_use]
    pub fn under(self, section: &str) -> Self {
        match self {
            Error::Config { key, problem, hint } => {
                Error::Config { key: format!("{section}.{key}"), problem, hint }
            }
            other => other,
        }
    }

    /// The same error with the step of a run in which it arose.
    #[must_use]
    pub(crate) fn in_step(self, step: usize) -> Self {
        match self {
            Error::Train { problem, hint } => {
                Error::Train { problem: format!("step {step}: {problem}"), hint }
            }
            other => other,
        }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Error::File { hint, .. }
            | Error::Config { hint, .. }
            | Error::Data { hint, .. }
            | Error::Rows { hint, .. }
            | Error::Tensor { hint, .. }
            | Error::Template { hint, .. }
            | Error::Network { hint, .. }
            | Error::Train { hint, .. } => *hint = Some(text.into()),
            Error::Io { .. } | Error::Kernel(_) => {}
        }
        self
    }

    /// What the user could do about it: what was said where the error arose, else what helps with its kind.
    pub fn hint(&self) -> Option<String> {
        let (own, usual) = match self {
            Error::Train { hint, .. } => return hint.clone(),
            Error::Io { path, source } => (&None, io_hint(path, source.kind())),
            Error::File { hint, .. } => {
                (hint, "check that the file is whole and of the kind that is expected here".into())
            }
            Error::Config { hint, key, .. } if key.starts_with("--") => {
                (hint, "see --help for what the option takes".into())
            }
            Error::Config { hint, key, .. } => {
                (hint, format!("correct the run file, or give the command --set {key}=VALUE"))
            }
            Error::Data { hint, .. } => (hint, "correct the row, or take it out of the file".into()),
            Error::Rows { hint, .. } => (hint, "correct the rows, or take them out of the file".into()),
            Error::Tensor { hint, .. } => {
                (hint, "the weights and the config.json beside them describe different networks".into())
            }
            Error::Template { hint, .. } => (
                hint,
                "the template stands in the model's chat_template.jinja or tokenizer_config.json".into(),
            ),
            Error::Network { hint, .. } => {
                (hint, "check the connection, or give a model folder or .gguf file of this machine".into())
            }
            Error::Kernel(ferrotune_kernels::Error::Threads { .. }) => {
                (&None, "use fewer with --threads, or raise the limits on processes and memory".into())
            }
            Error::Kernel(_) => {
                (&None, "if the model's files are whole, this is a bug worth reporting".into())
            }
        };
        Some(own.clone().unwrap_or(usual))
    }
}

impl From<ferrotune_hub::Error> for Error {
    fn from(error: ferrotune_hub::Error) -> Self {
        use ferrotune_hub::Error as Hub;
        match error {
            Hub::Io { path, source } => Error::Io { path, source },
            Hub::File { path, problem, hint } => Error::File { path, problem, hint },
            Hub::Network { url, problem, hint } => Error::Network { url, problem, hint },
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "says where a relative path starts")]
fn io_hint(path: &Path, kind: std::io::ErrorKind) -> String {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::NotFound => match std::env::current_dir() {
            Ok(here) if path.is_relative() => {
                format!("check the path; relative paths start at the current folder, {}", here.display())
            }
            _ => "check the path".into(),
        },
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
            "this user may not do that there; give another path, or change the permissions".into()
        }
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            "make room, or write to another disk; what was written whole before is still there".into()
        }
        Kind::NotADirectory | Kind::AlreadyExists => "a part of the path is a file; give another path".into(),
        Kind::IsADirectory => "this is a folder; give a file".into(),
        _ => "the operating system refused; check the path, the permissions and the disk".into(),
    }
}
