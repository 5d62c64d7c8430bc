//! What comes from elsewhere: models and data sets of the hub, a package index, and the starter for a machine with nothing on it.
//!
//! `ferrotune-hub` downloads; here is which files make a model that this library opens, or the rows that it reads.

pub mod data_sets;
pub mod hub;
pub mod starter;

pub use ferrotune_hub::{index, net, wheel};
