//! bitsandbytes 4-bit weights in safetensors.

use ferrotune_kernels::quant::Weight;

use super::safetensors::Shards;
use crate::Result;

/// Whether `name` is a part of a quantized weight and not a tensor of the model.
pub(super) fn is_part(_shards: &Shards, _name: &str) -> bool {
    false
}

/// Reads the weight `name` if it is quantized.
pub(super) fn read(_shards: &Shards, _name: &str, _rows: usize, _cols: usize) -> Result<Option<Weight>> {
    Ok(None)
}
