//! Helium: the Llama network whose rotation turns neighbouring elements.

use ferrotune_kernels::ops::rope::Pairs;

use super::Family;
use crate::Result;
use crate::arch::architecture::{Architecture, Rope, rope};
use crate::arch::config::{Defaults, ModelConfig};

pub(super) const FAMILY: Family = Family {
    model_type: "helium",
    defaults: Defaults { head_dim: Some(128), norm_eps: 1e-8, ..Defaults::COMMON },
    architecture,
};

/// Biases are on q, k and v, not on o.
fn architecture(c: &ModelConfig) -> Result<Architecture> {
    Ok(Architecture {
        o_bias: false,
        ropes: vec![Rope { pairs: Pairs::Neighbours, ..rope(c, 100_000.0, 1.0) }],
        ..Architecture::common(c)
    })
}
