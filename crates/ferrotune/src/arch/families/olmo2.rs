//! OLMo 2: norms after attention and MLP, and over all heads of q and of k together.

use super::{Architecture, NormPlaces, QkNorm};
use crate::Result;
use crate::arch::config::ModelConfig;

/// As Llama with the norms elsewhere.
pub(crate) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        norms: NormPlaces::After,
        qk_norm: QkNorm::Whole,
        mlp_bias: false,
        ..Architecture::common(c)
    })
}
