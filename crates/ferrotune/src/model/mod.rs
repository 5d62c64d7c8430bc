//! The frozen network, with room for LoRA branches; explicit forward and backward for each part.

pub mod streaming;

pub mod conv_taps;
pub mod decoder;

pub mod attention;
pub mod embedding;
pub mod gated_delta;
pub mod heads;
pub mod kv_cache;
pub mod layer;
pub mod linear;
pub mod mamba2;
pub mod mixer;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod params;
pub mod parts;
pub mod pass;
mod policy;
pub mod qkv;
pub mod residual;
pub mod rope;
pub mod saved;
pub mod shared_keys;
pub mod short_conv;
pub mod tokens;

pub use decoder::{Backward, Decoder};
pub use layer::Layer;
pub use params::{Gradients, Group, ParamId, Params};
pub use pass::{Adapted, DropoutKey, Pass};
pub use policy::{Activations, Policies};
pub use tokens::Tokens;
