//! Weights quantized to 8 bits by bitsandbytes (LLM.int8).
//!
//! `MODULE.weight` is I8, and beside it stand `MODULE.SCB`, the largest magnitude of each row, and
//! `MODULE.weight_format`, which is 0 for rows in their plain order.

use ferrotune_kernels::quant::Weight;
use ferrotune_kernels::quant::int8::Int8Rows;

use super::safetensors::{Dtype, OutTensor, Shards};
use crate::{Error, Result};

/// Whether `name` is a part of a quantized weight and not a tensor of the model.
pub(crate) fn is_part(shards: &Shards, name: &str) -> bool {
    let modules = [".SCB", ".weight_format"].into_iter().filter_map(|part| name.strip_suffix(part));
    modules.into_iter().any(|module| shards.get(&format!("{module}.SCB")).is_some())
}

/// Reads the weight `name` if it is quantized; its codes stay in the mapped file.
pub(crate) fn read(shards: &Shards, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
    let Some(module) = name.strip_suffix(".weight") else { return Ok(None) };
    let (scales, format) = (format!("{module}.SCB"), format!("{module}.weight_format"));
    let (Some((file, codes)), Some((_, absmax))) = (shards.get(name), shards.get(&scales)) else {
        return Ok(None);
    };
    let refuse = |name: &str, problem: String| Err(Error::tensor(file.path(), name, problem));
    if codes.dtype != Dtype::I8 {
        return refuse(name, format!("dtype is {:?}, expected I8 beside `{scales}`", codes.dtype));
    }
    if codes.shape != [rows, cols] {
        return refuse(
            name,
            format!("shape is {:?}, the model's config.json asks for [{rows}, {cols}]", codes.shape),
        );
    }
    if let Some((_, format_tensor)) = shards.get(&format)
        && format_tensor.bytes.as_slice().iter().any(|&b| b != 0)
    {
        return refuse(&format, "only rows in their plain order (0) are supported".into());
    }
    let values = match absmax.dtype {
        Dtype::F32 if absmax.shape == [rows] => absmax.to_f32().unwrap_or_default(),
        other => {
            return refuse(&scales, format!("{other:?} {:?} found, expected F32 [{rows}]", absmax.shape));
        }
    };
    Ok(Some(Weight::int8(Int8Rows::new(cols, codes.bytes.clone(), values.into())?)))
}

/// The tensors that stand for the quantized weight of `module`; rows in their plain order need no `weight_format`.
pub(crate) fn tensors<'a>(module: &str, rows: &'a Int8Rows) -> Vec<(String, OutTensor<'a>)> {
    let codes = OutTensor::bytes(Dtype::I8, &[rows.rows(), rows.cols()], rows.codes());
    let scales = OutTensor::f32(&[rows.rows()], rows.absmax());
    vec![(format!("{module}.weight"), codes), (format!("{module}.SCB"), scales)]
}
