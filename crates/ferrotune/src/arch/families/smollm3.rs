//! SmolLM3: the Llama network where every fourth layer has no rotation.

use super::{Family, windows};
use crate::Result;
use crate::arch::architecture::{Architecture, rope};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "smollm3",
    defaults: Defaults { window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

/// `no_rope_layers` has 1 for layers with a rotation; without it every `no_rope_layer_interval`-th has none.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let layers = c.num_hidden_layers;
    let rotated: Vec<bool> = c.with_keys(|keys| {
        let interval = keys.optional_size("no_rope_layer_interval")?.unwrap_or(4);
        match keys.indices("no_rope_layers")? {
            Some(list) if list.len() < layers => {
                Err(keys.bad("no_rope_layers", format!("{} entries for {layers} layers", list.len())))
            }
            Some(list) => Ok(list[..layers].iter().map(|v| *v != 0).collect()),
            None => Ok((0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect()),
        }
    })?;
    let windowed = c.use_sliding_window == Some(true);
    Ok(Architecture {
        windows: if windowed { windows(c, |i| !rotated[i]) } else { vec![None; layers] },
        ropes: vec![rope(c, 2_000_000.0, 1.0)],
        rope_of_layer: rotated.iter().map(|r| r.then_some(0)).collect(),
        tied: c.tie_word_embeddings.unwrap_or(true),
        ..Architecture::common(c)
    })
}
