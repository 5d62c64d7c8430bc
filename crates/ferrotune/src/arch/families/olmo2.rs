//! OLMo 2: norms after attention and MLP, and over all heads of q and of k together.

use super::Family;
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, QkNorm};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family =
    Family { model_type: "olmo2", defaults: Defaults { norm_eps: 1e-5, ..Defaults::COMMON }, architecture };

/// Llama with the norms after attention and MLP.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        norms: LayerNorms::AFTER,
        qk_norm: Some(QkNorm::WHOLE),
        mlp_bias: false,
        ..Architecture::common(c)
    })
}
