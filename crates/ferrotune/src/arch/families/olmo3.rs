//! OLMo 3: OLMo 2 with a window in three layers of four, whose rotation is never scaled.

use super::{Family, olmo2, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, rope_of_kind};
use crate::arch::config::{Defaults, ModelConfig, RopeConfig, RopeScaling, RopeStyle, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "olmo3",
    defaults: Defaults {
        norm_eps: 1e-5,
        window: Window::Or(4096),
        rope: RopeStyle::ByLayerType,
        ..Defaults::COMMON
    },
    architecture,
};

/// Every fourth layer sees the whole segment. Configurations with one set of rotary parameters scale those layers alone.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let windows = windows(c, |i| !(i + 1).is_multiple_of(4));
    let unscaled = RopeConfig { scaling: RopeScaling::None, ..c.rope.clone() };
    let full = c.rope_by_layer.get("full_attention").unwrap_or(&c.rope);
    let sliding = c.rope_by_layer.get("sliding_attention").unwrap_or(&unscaled);
    Ok(Architecture {
        ropes: [full, sliding].map(|stated| rope_of_kind(c, Some(stated), 500_000.0)).to_vec(),
        rope_of_layer: windows.iter().map(|w| Some(w.is_some() as usize)).collect(),
        windows,
        ..olmo2::architecture(c)?
    })
}
