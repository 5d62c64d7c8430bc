//! The frozen network, with room for LoRA branches; explicit forward and backward for each part.

pub mod streaming;

pub mod decoder;

pub mod adapted;
pub mod attention;
pub(crate) mod dora;
pub mod embedding;
pub mod kv_cache;
pub mod layer;
pub mod linear;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod params;
mod policy;
pub mod residual;
pub mod rope;
pub mod tokens;
pub mod waiting;

pub use adapted::Adapted;
pub use decoder::{Backward, Decoder};
pub use layer::Layer;
pub use linear::{DropoutKey, Pass};
pub use params::{Gradients, Group, ParamId, Params};
pub use policy::{Activations, Policies};
pub use tokens::Tokens;
