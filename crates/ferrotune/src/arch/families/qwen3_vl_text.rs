//! The text part of Qwen3-VL: Qwen 3 without windows.
//!
//! The rotation goes over sections of a head (`mrope_section`), one for time, height and width each. In text the three
//! positions are one, so it is the plain rotation.

use super::{Family, qwen3};
use crate::Result;
use crate::arch::architecture::{Architecture, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_vl_text",
    defaults: Defaults { head_dim: Some(128), ..Defaults::COMMON },
    architecture,
};

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    let windows = vec![None; c.num_hidden_layers];
    Ok(Architecture { windows, ropes: vec![rope(c, 500_000.0, 1.0)], ..qwen3::architecture(c)? })
}
