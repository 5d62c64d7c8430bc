//! Names that a rewritten template calls and that the environment defines.

/// Function that joins its arguments as Python's `str()` would write them.
pub(super) const CONCAT: &str = "__concat";
/// Function for `%` on numbers and strings.
pub(super) const MODULO: &str = "__modulo";
/// Function for `<`, `<=`, `>`, `>=`; its first argument is the operator.
pub(super) const COMPARE: &str = "__compare";
/// Function that makes the namespace behind the `else` of a loop with jumps.
pub(super) const FLAG: &str = "__flag";
/// Function around what is stored in a namespace, the only way to carry a value from one turn of a loop to the next
/// and so the only way to nest values without end.
pub(super) const STORED: &str = "__stored";
/// Variables that a generation block prints where it starts and ends.
pub(super) const GENERATION_START: &str = "__generation_start";
/// See [`GENERATION_START`].
pub(super) const GENERATION_END: &str = "__generation_end";
