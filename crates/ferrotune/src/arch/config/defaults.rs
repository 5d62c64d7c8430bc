//! How a family's own code reads `config.json`: the keys it looks at, and what it takes where they are absent.
//!
//! Values are those of transformers' `configuration_<family>.py`. A checkpoint may leave out whatever equals them.

use ferrotune_kernels::ops::activation::Activation;

use super::LayerType;

/// Keys and defaults of a family.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// Width of a head; `hidden_size / num_attention_heads` if the family has no number for it.
    pub head_dim: Option<usize>,
    /// Key of the norms' epsilon. Others are not read.
    pub norm_eps_key: &'static str,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Another key of `intermediate_size`, which comes before it.
    pub ffn_key: &'static str,
    /// Width of the MLP, for families whose configuration has none as no layer has an MLP.
    pub ffn: Option<usize>,
    /// Key of the activation.
    pub activation_key: &'static str,
    /// An activation that only this family has: it is not in [`Activation`].
    pub own_activation: Option<&'static str>,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Which layers' window `sliding_window` states.
    pub window: Window,
    /// How rotary embeddings are stated.
    pub rope: RopeStyle,
    /// Whether `partial_rotary_factor` is read.
    pub partial_rotary: bool,
    /// Key of the layers' kinds, where `layer_types` is not there.
    pub layer_types_key: &'static str,
    /// The kinds of layers that its network has here.
    pub layer_types: &'static [LayerType],
}

/// When `sliding_window` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Whenever it is stated.
    Stated,
    /// If `use_sliding_window` is true.
    IfInUse,
    /// Always, with this default; `null` takes the window away.
    Or(usize),
}

/// How rotary embeddings are stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// One set for all layers.
    Common,
    /// One set for each kind of layers (`full_attention`, `sliding_attention`).
    ByLayerType,
    /// As Phi 3 has it: unscaled or LongRoPE, which early files call `su` or `yarn`, and the context of the pre-training
    /// outside of `rope_scaling`.
    LongRope,
}

impl Defaults {
    /// What most families have, those of Llama.
    pub(crate) const COMMON: Defaults = Defaults {
        head_dim: None,
        norm_eps_key: "rms_norm_eps",
        norm_eps: 1e-6,
        ffn_key: "intermediate_size",
        ffn: None,
        activation_key: "hidden_act",
        own_activation: None,
        activation: Activation::Silu,
        window: Window::Stated,
        rope: RopeStyle::Common,
        partial_rotary: false,
        layer_types_key: "layer_types",
        layer_types: &[LayerType::Full, LayerType::Sliding],
    };
}
