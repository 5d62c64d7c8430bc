//! Gemma 3 (text): Gemma 2 with norms of the heads of q and k, five layers with a window to one without, and a rotary
//! base for each of the two kinds.

use super::{Family, gemma2, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, QkNorm, rope_of_kind};
use crate::arch::config::{Defaults, ModelConfig, RopeStyle};

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    defaults: Defaults { rope: RopeStyle::ByLayerType, ..gemma2::DEFAULTS },
    architecture,
};

/// Layers `sliding_window_pattern` apart see the whole segment; they have the larger base and any scaling.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let (pattern, local) = c.with_keys(|keys| {
        let pattern = keys.optional_size("sliding_window_pattern")?.unwrap_or(6);
        Ok((pattern, keys.positive("rope_local_base_freq")?))
    })?;
    gemma2::needs_window(c)?;
    let windows = windows(c, |i| !(i + 1).is_multiple_of(pattern));
    let by_layer = &c.rope_by_layer;
    let global = by_layer.get("full_attention").or(Some(&c.rope));
    // Early configurations state one scaling, that of the layers without a window.
    let local = rope_of_kind(c, by_layer.get("sliding_attention"), local.unwrap_or(10_000.0));
    Ok(Architecture {
        qk_norm: Some(QkNorm::HEAD),
        // Scores have no cap here, whatever the configuration says: its code does not read that key.
        score_cap: None,
        rope_of_layer: windows.iter().map(|w| Some(w.is_some() as usize)).collect(),
        ropes: vec![rope_of_kind(c, global, 1_000_000.0), local],
        windows,
        ..gemma2::shared(c, [None, None])?
    })
}
