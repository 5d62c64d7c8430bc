//! What an op or a format can refuse.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an op or a weight format refused its input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that must agree do not.
    #[error("{op}: {what} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The op that checked.
        op: &'static str,
        /// The argument, by the name in the op's contract.
        what: &'static str,
        /// The shape it has.
        found: Vec<usize>,
        /// The shape the contract asks for.
        expected: Vec<usize>,
    },
    /// A byte buffer does not hold what its shape and format need.
    #[error("{format} weight of {rows} x {cols}: {found} bytes found, {expected} expected")]
    Bytes {
        /// Name of the storage format.
        format: &'static str,
        /// Rows of the weight.
        rows: usize,
        /// Columns of the weight.
        cols: usize,
        /// Bytes found.
        found: usize,
        /// Bytes that the format needs.
        expected: usize,
    },
    /// A row length that the format cannot hold.
    #[error("{format}: rows of {cols} values are not a multiple of the block of {block}")]
    Block {
        /// Name of the storage format.
        format: &'static str,
        /// Values of a row.
        cols: usize,
        /// Values of a block.
        block: usize,
    },
    /// The system starts no further thread.
    #[error("{wanted} threads cannot be started: {problem}")]
    Threads {
        /// Threads that were asked for.
        wanted: usize,
        /// What the system says.
        problem: String,
    },
    /// A parameter outside what the format or op allows.
    #[error("{what}: {found} is not supported ({allowed})")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The value found.
        found: String,
        /// What would be allowed.
        allowed: &'static str,
    },
}
