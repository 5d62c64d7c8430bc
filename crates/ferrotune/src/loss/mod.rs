//! Losses over the supervised rows of a micro-batch.

pub mod cross_entropy;
