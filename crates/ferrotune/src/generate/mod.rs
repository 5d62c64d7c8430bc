//! Text from a model: batched decoding with a key/value cache, and sampling.

pub mod answers;
pub mod engine;
pub mod sampler;

pub use answers::reply;
pub use engine::{Engine, Stop};
pub use sampler::Sampling;
