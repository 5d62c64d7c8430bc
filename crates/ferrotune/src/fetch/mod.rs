//! Models from elsewhere: the hub, a package index, and the starter for a machine with nothing on it.
//!
//! `ferrotune-hub` downloads; here is which files make a model that this library opens.

pub mod hub;
pub mod starter;

pub use ferrotune_hub::{index, net, wheel};
