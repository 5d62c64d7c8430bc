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

/// Qwen 2's attention, whose biases `qkv_bias` can take away.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let experts = qwen3_moe::experts(c, [60, 4, 1408])?;
    let (shared, qkv_bias) = c.with_keys(|keys| {
        let ffn = keys.optional_size("shared_expert_intermediate_size")?.unwrap_or(5632);
        Ok((ffn, keys.flag("qkv_bias")?.unwrap_or(true)))
    })?;
    let shared =
        SharedExpert { ffn: shared, module: "mlp.shared_expert", gate: Some("mlp.shared_expert_gate") };
    Ok(Architecture {
        experts: Some(Experts { shared: Some(shared), ..experts }),
        qkv_bias,
        ..qwen2::architecture(c)?
    })
}
