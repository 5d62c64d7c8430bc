//! Hunyuan (dense): the Llama network with norms of the heads of q and k behind the rotation.

use serde_json::Value;

use super::{Family, rotary_parameters};
use crate::Result;
use crate::arch::architecture::{Architecture, QkNorm, QkNormOver, Rope, rope};
use crate::arch::config::{Defaults, ModelConfig, RopeScaling};

pub(super) const FAMILY: Family = Family {
    model_type: "hunyuan_v1_dense",
    defaults: Defaults { norm_eps: 1e-5, ..Defaults::COMMON },
    architecture,
};

/// What the configuration calls `dynamic` is a larger base, the same for any length, where it states `alpha`.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let stated = rotary_parameters(c).and_then(|s| s.get("alpha")).and_then(Value::as_f64);
    let mut rope = rope(c, 10_000.0, 1.0);
    if let (RopeScaling::Dynamic { .. }, Some(alpha)) = (&rope.scaling, stated.filter(|alpha| *alpha > 0.0)) {
        let dims = rope.dims as f64;
        let theta = rope.theta * alpha.powf(dims / (dims - 2.0));
        rope = Rope { theta, scaling: RopeScaling::None, ..rope };
    }
    Ok(Architecture {
        qk_norm: Some(QkNorm {
            over: QkNormOver::Head,
            names: ["query_layernorm", "key_layernorm"],
            after_rotation: true,
        }),
        mlp_bias: false,
        ropes: vec![rope],
        ..Architecture::common(c)
    })
}
