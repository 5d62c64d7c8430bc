//! The text part of Qwen2.5-VL: Qwen 2 with a rotation over sections of a head, which for text is the plain one.

use super::{Family, qwen2};
use crate::Result;
use crate::arch::architecture::{Architecture, rope};
use crate::arch::config::{Defaults, ModelConfig, Window};

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2_5_vl_text",
    defaults: Defaults { norm_eps: 1e-5, window: Window::IfInUse, ..Defaults::COMMON },
    architecture,
};

fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture { ropes: vec![rope(c, 1_000_000.0, 1.0)], ..qwen2::architecture(c)? })
}
