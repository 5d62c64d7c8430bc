//! Qwen 2 and 1.5 with experts: those of a token beside a shared one with a gate, in all or some layers.

use super::{Family, qwen2, qwen3_moe};
use crate::Result;
use crate::arch::architecture::{Architecture, Experts, SharedExpert};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_moe",
    defaults: Defaults { window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

/// The shared expert of Qwen's families, with a default for its width.
pub(super) fn shared_expert(c: &ModelConfig, ffn: usize) -> Result<SharedExpert> {
    let stated = c.with_keys(|keys| keys.optional_size("shared_expert_intermediate_size"))?;
    let ffn = stated.unwrap_or(ffn);
    Ok(SharedExpert { ffn, module: "mlp.shared_expert", gate: Some("mlp.shared_expert_gate") })
}

/// Qwen 2's attention, whose biases `qkv_bias` can take away.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let experts = qwen3_moe::experts(c, [60, 4, 1408])?;
    let shared = Some(shared_expert(c, 5632)?);
    let qkv_bias = c.with_keys(|keys| Ok(keys.flag("qkv_bias")?.unwrap_or(true)))?;
    Ok(Architecture { experts: Some(Experts { shared, ..experts }), qkv_bias, ..qwen2::architecture(c)? })
}
