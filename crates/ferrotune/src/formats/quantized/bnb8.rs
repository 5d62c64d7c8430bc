//! Weights quantized to 8 bits by bitsandbytes (LLM.int8).
//!
//! `MODULE.weight` is I8, and beside it stand `MODULE.SCB`, the largest magnitude of each row, and
//! `MODULE.weight_format`, which is 0 for rows in their plain order.

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::Weight;
use ferrotune_kernels::quant::int8::{Int8Rows, quantize};
use serde_json::Value;

use super::super::safetensors::{Dtype, OutTensor, Shards};
use super::{Blank, Blocks, QuantFormat, QuantKind};
use crate::{Error, Result};

/// The format.
pub(super) struct Int8;

impl QuantFormat for Int8 {
    fn kind(&self) -> QuantKind {
        QuantKind::Int8
    }

    fn options(&self, _: Blocks) -> Result<Blocks, String> {
        Ok(Blocks::default())
    }

    fn describe(&self, _: Blocks) -> String {
        "int8".into()
    }

    fn bytes_per_value(&self, _: Blocks, cols: usize) -> f64 {
        1.0 + 4.0 / cols as f64
    }

    /// Rounded as bitsandbytes rounds a linear.
    fn quantize(&self, threads: &Threads, weight: &Weight, _: Blocks) -> Result<Weight> {
        Ok(quantize(threads, weight, true)?)
    }

    /// Rows in their plain order need no `weight_format`.
    fn tensors<'w>(&self, name: &str, weight: &'w Weight, _: &str) -> Option<Vec<(String, OutTensor<'w>)>> {
        let (rows, module) = (weight.format::<Int8Rows>()?, name.strip_suffix(".weight")?);
        let codes = OutTensor::bytes(Dtype::I8, &[rows.rows(), rows.cols()], rows.codes());
        let scales = OutTensor::f32(&[rows.rows()], rows.absmax());
        Some(vec![(name.to_string(), codes), (format!("{module}.SCB"), scales)])
    }

    fn is_part(&self, shards: &Shards, name: &str) -> bool {
        let modules = [".SCB", ".weight_format"].into_iter().filter_map(|part| name.strip_suffix(part));
        modules.into_iter().any(|module| shards.get(&format!("{module}.SCB")).is_some())
    }

    fn read(&self, shards: &Shards, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
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

    fn stated(&self, config: &Value) -> Option<Result<Blocks, String>> {
        let ours = config["quant_method"] == "bitsandbytes" && config["load_in_8bit"] == true;
        ours.then(|| Ok(Blocks::default()))
    }

    fn blank(&self, rows: usize, cols: usize, _: Blocks, blank: &dyn Blank) -> Result<Weight> {
        Ok(Weight::int8(Int8Rows::new(cols, blank.bytes(rows * cols), blank.scales(rows))?))
    }
}
