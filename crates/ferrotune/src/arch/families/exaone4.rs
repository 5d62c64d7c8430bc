//! EXAONE 4: norms after attention and MLP and of the heads of q and k; where some layers have a window, those without one
//! have no rotation.

use serde_json::Value;

use super::{Family, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, LayerNorms, QkNorm};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "exaone4",
    defaults: Defaults { norm_eps: 1e-5, window: Window::Or(4096), ..Defaults::COMMON },
    architecture,
};

/// `sliding_window_pattern` is a number of layers or a text such as `LLLG`: the last of so many layers sees everything.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    const PATTERN: &str = "sliding_window_pattern";
    let pattern = c.with_keys(|keys| match keys.get(PATTERN) {
        Some(Value::String(text)) => Ok(text.len()),
        _ => Ok(keys.optional_count(PATTERN)?.unwrap_or(4)),
    })?;
    let windows = windows(c, |i| pattern > 0 && !(i + 1).is_multiple_of(pattern));
    let rotated = |window: &Option<usize>| (c.sliding_window.is_none() || window.is_some()).then_some(0);
    Ok(Architecture {
        norms: LayerNorms::AFTER,
        qk_norm: Some(QkNorm::HEAD),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        rope_of_layer: windows.iter().map(rotated).collect(),
        windows,
        ..Architecture::common(c)
    })
}
