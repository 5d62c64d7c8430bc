//! Granite 4 without Mamba layers and experts: Granite 3 with another name and form of the MLP, and maybe no rotation.

use serde_json::json;

use super::{Family, granite, only};
use crate::Result;
use crate::arch::architecture::{Architecture, MlpKind};
use crate::arch::config::{Defaults, LayerType, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "granitemoehybrid",
    defaults: Defaults {
        layer_types_key: "layers_block_type",
        layer_types: &[LayerType::Full],
        ..Defaults::COMMON
    },
    architecture,
};

/// The dense models: attention in every layer, no experts beside the MLP.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    only(c, "num_local_experts", &json!(0))?;
    c.with_keys(|keys| {
        // The family's defaults are experts, and Mamba in all layers.
        if !keys.has("num_local_experts") {
            return Err(keys.missing("num_local_experts"));
        }
        if !keys.has("layer_types") && !keys.has("layers_block_type") {
            return Err(keys.missing("layer_types"));
        }
        let rotated = keys.text("position_embedding_type")? == Some("rope");
        Ok(Architecture {
            ffn: keys.optional_size("shared_intermediate_size")?.unwrap_or(1024),
            mlp: MlpKind::Fused(["shared_mlp.input_linear", "shared_mlp.output_linear"]),
            mlp_bias: false,
            rope_of_layer: vec![rotated.then_some(0); c.num_hidden_layers],
            ..granite::architecture(c)?
        })
    })
}
