//! Granite 4: Granite 3 with Mamba-2 in most layers of the `h` models, gate and up of the MLP in one matrix, maybe experts beside
//! that MLP, and maybe no rotation.

use ferrotune_kernels::ops::activation::Activation;
use serde_json::json;

use super::{Family, granite, mamba2, only, only_activation};
use crate::Result;
use crate::arch::architecture::{Architecture, Mamba2, Mamba2Norm, Mixing, MlpKind};
use crate::arch::config::{Defaults, LayerType, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    defaults: Defaults {
        layer_types_key: "layers_block_type",
        layer_types: &[LayerType::Full, LayerType::Linear],
        ..Defaults::COMMON
    },
    architecture,
};

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "num_local_experts", &json!(0))?;
    let attends = |i: usize| c.layer_types.as_ref().is_some_and(|types| types[i] == LayerType::Full);
    let layers = 0..c.num_hidden_layers;
    let mamba = match layers.clone().all(attends) {
        // Files of the other models need not have its sizes.
        true => None,
        false => Some(state_space(c)?),
    };
    let mixer = |i| match mamba {
        Some(mamba) if !attends(i) => Mixing::Mamba2(mamba),
        _ => Mixing::Attention,
    };
    c.with_keys(|keys| {
        // The family's default is experts.
        if !keys.has("num_local_experts") {
            return Err(keys.missing("num_local_experts"));
        }
        let rotated = keys.text("position_embedding_type")? == Some("rope");
        Ok(Architecture {
            ffn: keys.optional_size("shared_intermediate_size")?.unwrap_or(1024),
            mlp: MlpKind::Fused(["shared_mlp.input_linear", "shared_mlp.output_linear"]),
            mlp_bias: false,
            mixers: layers.map(mixer).collect(),
            rope_of_layer: vec![rotated.then_some(0); c.num_hidden_layers],
            ..granite::architecture(c)?
        })
    })
}

fn state_space(c: &ModelConfig) -> Result<Mamba2> {
    only_activation(c, Activation::Silu)?;
    c.with_keys(|keys| {
        let bias = keys.flag("mamba_proj_bias")?.unwrap_or(false);
        let width = keys.optional_size("mamba_expand")?.unwrap_or(2) * c.hidden_size;
        let sizes = mamba2::sizes(keys, width, Mamba2Norm::AfterGate)?;
        Ok(Mamba2 { bias: [bias; 2], ..sizes })
    })
}
