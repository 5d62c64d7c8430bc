//! What the tasks that run the program and the reference stack share.

pub(crate) mod ours;
pub(crate) mod python;
pub(crate) mod rows;
pub(crate) mod smollm2;
