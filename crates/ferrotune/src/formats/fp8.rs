//! FP8 checkpoints: a linear is `weight` in F8_E4M3 with `weight_scale_inv` or `weight_scale`, which values are multiplied by: one
//! for the tensor, one for each row, or one for each block (`quantization_config.weight_block_size`). Scales of activations
//! (`input_scale`, `activation_scale`) are of no use here: products read their inputs as they are.

use std::sync::Arc;

use ferrotune_kernels::quant::{Fp8, Weight};
use serde_json::Value;

use super::safetensors::{Dtype, Shards, TensorRef};
use crate::arch::config::ModelConfig;
use crate::{Error, Result};

/// What the scales of a weight are called, in its module.
const SCALES: [&str; 2] = ["weight_scale_inv", "weight_scale"];
/// What scales of activations are called.
const UNUSED: [&str; 2] = ["input_scale", "activation_scale"];

/// Rows and columns of a block, if scales are for blocks.
pub(super) type Block = Option<[usize; 2]>;

/// Whether the configuration speaks of weights in FP8.
pub(super) fn is_stated(about: &Value) -> bool {
    about["quant_method"] == "fp8"
        || about["quant_method"] == "compressed-tensors" && about["format"] == "float-quantized"
}

/// The blocks that the configuration states.
pub(super) fn block(config: &ModelConfig) -> Result<Block> {
    let stated = &config.raw["quantization_config"]["weight_block_size"];
    let size = |i: usize| stated[i].as_u64().filter(|n| (1..=1 << 20).contains(n)).map(|n| n as usize);
    match (stated.as_array().map(Vec::len), size(0), size(1)) {
        (None, ..) if stated.is_null() => Ok(None),
        (Some(2), Some(rows), Some(cols)) => Ok(Some([rows, cols])),
        _ => Err(Error::file(
            &config.path,
            format!("`quantization_config.weight_block_size`: {stated} is no pair of sizes"),
        )),
    }
}

fn is_fp8(tensor: &TensorRef) -> bool {
    tensor.dtype == Dtype::F8_E4M3
}

/// Whether a tensor is a part of a weight in FP8.
pub(super) fn is_part(shards: &Shards, name: &str) -> bool {
    let Some((module, last)) = name.rsplit_once('.') else { return false };
    let known = SCALES.contains(&last) || UNUSED.contains(&last);
    known && shards.get(&format!("{module}.weight")).is_some_and(|(_, weight)| is_fp8(weight))
}

/// The weight `name` if it is in FP8.
pub(super) fn read(
    shards: &Shards,
    name: &str,
    rows: usize,
    cols: usize,
    block: Block,
) -> Result<Option<Weight>> {
    let Some((file, tensor)) = shards.get(name).filter(|(_, tensor)| is_fp8(tensor)) else { return Ok(None) };
    let own = shards.in_file(name);
    let refuse = |name: &str, problem: String| Error::tensor(file.path(), name, problem);
    if tensor.shape != [rows, cols] {
        return Err(refuse(
            own,
            format!("shape is {:?}, the model's config.json asks for [{rows}, {cols}]", tensor.shape),
        ));
    }
    let module = name.trim_end_matches("weight");
    let Some((of, scales)) = SCALES.iter().find_map(|s| {
        let of = format!("{module}{s}");
        Some((shards.in_file(&of).to_string(), shards.get(&of)?.1))
    }) else {
        return Err(refuse(own, "F8_E4M3 without `weight_scale_inv` or `weight_scale` beside it".into()));
    };
    let values = scales.to_f32().ok_or_else(|| refuse(&of, format!("dtype is {:?}", scales.dtype)))?;
    if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
        return Err(refuse(&of, format!("has {bad}")));
    }
    let block = match (values.len(), block) {
        (1, _) => [rows, cols],
        (_, Some(block)) => block,
        (n, None) if n == rows => [1, cols],
        _ => {
            return Err(refuse(
                &of,
                format!("{:?} scales, and no `weight_block_size` is stated", scales.shape),
            ));
        }
    };
    let scales: Arc<[f32]> = values.into();
    let weight = Fp8::weight(rows, cols, tensor.bytes.clone(), scales, block);
    Ok(Some(weight.map_err(|e| refuse(&of, e.to_string()))?))
}

/// The names that tensors of the weight `name` can have, if it is in FP8.
pub(super) fn parts(shards: &Shards, name: &str) -> Vec<String> {
    let module = name.trim_end_matches("weight");
    match shards.get(name).is_some_and(|(_, tensor)| is_fp8(tensor)) {
        true => {
            ["weight"].into_iter().chain(SCALES).chain(UNUSED).map(|last| format!("{module}{last}")).collect()
        }
        false => Vec::new(),
    }
}
