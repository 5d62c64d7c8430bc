//! Models from elsewhere: the hub, a package index, and the starter for a machine with nothing on it.

mod download;
pub mod hub;
pub mod index;
pub mod net;
pub mod starter;
pub mod wheel;
