//! Granite 3: the Llama network with factors on embeddings, scores, residuals and logits.

use ferrotune_kernels::ops::softmax_xent::Logits;

use super::Family;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family { model_type: "granite", defaults: Defaults::COMMON, architecture };

/// Llama with four multipliers; `logits_scaling` divides.
pub(super) fn architecture(c: &ModelConfig) -> Result<Architecture> {
    c.with_keys(|keys| {
        let factor = |key: &str| Ok::<_, crate::Error>(keys.positive(key)?.unwrap_or(1.0) as f32);
        Ok(Architecture {
            embed_scale: factor("embedding_multiplier")?,
            score_scale: factor("attention_multiplier")?,
            residual_scale: factor("residual_multiplier")?,
            logits: Logits { scale: 1.0 / factor("logits_scaling")?, cap: None },
            ..Architecture::common(c)
        })
    })
}
