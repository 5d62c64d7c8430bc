//! Weights quantized to 4 bits, in the tensors and names with which bitsandbytes saves them.
//!
//! Next to `NAME` (the packed bytes) stand `NAME.absmax`, `NAME.quant_map`, for double quantization
//! `NAME.nested_absmax` and `NAME.nested_quant_map`, and `NAME.quant_state.bitsandbytes__nf4` (or `fp4`): a JSON text
//! in a U8 tensor. Readers of this format refuse any further tensor, so nothing is added.

use std::sync::Arc;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::nf4::{BLOCKS, FourBit, FourBitKind, NESTED_BLOCK, Scales, quantize};
use ferrotune_kernels::quant::{Bytes, Weight};
use serde_json::{Value, json};

use super::super::safetensors::{Dtype, OutTensor, SafeFile, Shards, TensorRef};
use super::{Blank, Blocks, QuantFormat, QuantKind};
use crate::{Error, Result};

/// NF4 or FP4.
pub(super) struct FourBitFormat(FourBitKind, QuantKind);

/// NF4.
pub(super) const NF4: FourBitFormat = FourBitFormat(FourBitKind::Nf4, QuantKind::Nf4);

/// FP4.
pub(super) const FP4: FourBitFormat = FourBitFormat(FourBitKind::Fp4, QuantKind::Fp4);

impl QuantFormat for FourBitFormat {
    fn kind(&self) -> QuantKind {
        self.1
    }

    fn options(&self, given: Blocks) -> Result<Blocks, String> {
        match BLOCKS.contains(&given.block) {
            true => Ok(given),
            false => Err(format!("`block`: {}, expected a power of two from 64 to 4096", given.block)),
        }
    }

    fn describe(&self, options: Blocks) -> String {
        let double = if options.double { ", double" } else { "" };
        format!("{}, blocks of {}{double}", self.0.name(), options.block)
    }

    fn bytes_per_value(&self, options: Blocks, _: usize) -> f64 {
        0.5 + if options.double { 1.02 } else { 4.0 } / options.block as f64
    }

    fn quantize(&self, threads: &Threads, weight: &Weight, options: Blocks) -> Result<Weight> {
        Ok(quantize(threads, weight, self.0, options.block, options.double)?)
    }

    fn tensors<'w>(
        &self,
        name: &str,
        weight: &'w Weight,
        dtype: &str,
    ) -> Option<Vec<(String, OutTensor<'w>)>> {
        let bits = weight.format::<FourBit>().filter(|bits| bits.kind() == self.0)?;
        Some(tensors(name, weight.rows(), weight.cols(), bits, dtype))
    }

    fn is_part(&self, shards: &Shards, name: &str) -> bool {
        let weights = PARTS.iter().filter_map(|part| name.strip_suffix(part));
        weights.into_iter().any(|weight| shards.get(&state_key(weight, self.0)).is_some())
    }

    fn read(&self, shards: &Shards, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
        match shards.get(&state_key(name, self.0)) {
            Some((file, state)) => read(shards, (file, state), self.0, name, rows, cols).map(Some),
            None => Ok(None),
        }
    }

    fn stated(&self, config: &Value) -> Option<Result<Blocks, String>> {
        if config["quant_method"] != "bitsandbytes" || config["load_in_4bit"] != true {
            return None;
        }
        // FP4 is bitsandbytes' own default.
        let kind = if config["bnb_4bit_quant_type"] == "nf4" { FourBitKind::Nf4 } else { FourBitKind::Fp4 };
        if kind != self.0 {
            return None;
        }
        let stored = config["bnb_4bit_quant_storage"].as_str().unwrap_or("uint8");
        if stored != "uint8" {
            return Some(Err(format!("bnb_4bit_quant_storage `{stored}` is not supported (uint8)")));
        }
        let double = config["bnb_4bit_use_double_quant"].as_bool().unwrap_or(false);
        // The block size stands beside each weight only; this is bitsandbytes' own.
        Some(Ok(Blocks { block: 64, double }))
    }

    fn quantization_config(&self, options: Blocks, compute: &str, kept: &[&str]) -> Option<Value> {
        Some(quantization_config(self.0, options.double, compute, kept))
    }

    fn blank(&self, rows: usize, cols: usize, options: Blocks, blank: &dyn Blank) -> Result<Weight> {
        let (values, block) = (rows * cols, options.block);
        let count = values.div_ceil(block);
        let scales = match options.double {
            false => Scales::Plain(blank.scales(count)),
            true => Scales::Nested {
                codes: blank.bytes(count),
                absmax: blank.scales(count.div_ceil(NESTED_BLOCK)),
                map: Arc::new([0.0; 256]),
                offset: 0.0,
                block: NESTED_BLOCK,
            },
        };
        let bits = FourBit::new(self.0, block, values, blank.bytes(values.div_ceil(2)), scales, [0.0; 16])?;
        Ok(Weight::four_bit(rows, cols, bits)?)
    }
}

const PARTS: [&str; 6] = [
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
];

fn state_key(name: &str, kind: FourBitKind) -> String {
    format!("{name}.quant_state.bitsandbytes__{}", kind.name())
}

fn read(
    shards: &Shards,
    (file, state): (&SafeFile, &TensorRef),
    kind: FourBitKind,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Weight> {
    let refuse = |what: &str, problem: String| Error::tensor(file.path(), format!("{name}{what}"), problem);
    let part = |suffix: &str| {
        let found = shards.get(&format!("{name}{suffix}")).map(|(_, tensor)| tensor);
        found.ok_or_else(|| refuse(suffix, "missing, the quantized weight needs it".into()))
    };
    let bytes = |suffix: &str| -> Result<Bytes> {
        let tensor = part(suffix)?;
        match tensor.dtype {
            Dtype::U8 => Ok(tensor.bytes.clone()),
            other => Err(refuse(suffix, format!("dtype is {other:?}, expected U8"))),
        }
    };
    let floats = |suffix: &str| -> Result<Vec<f32>> {
        let tensor = part(suffix)?;
        match (tensor.dtype, tensor.to_f32()) {
            (Dtype::F32, Some(values)) => Ok(values),
            (other, _) => Err(refuse(suffix, format!("dtype is {other:?}, expected F32"))),
        }
    };

    let suffix = &state_key("", kind);
    let about: Value = serde_json::from_slice(state.bytes.as_slice())
        .map_err(|e| refuse(suffix, format!("does not hold valid JSON: {e}")))?;
    let number = |key: &str| {
        let found = about.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        found.ok_or_else(|| refuse(suffix, format!("`{key}` is missing or not a size")))
    };
    let shape: Option<Vec<usize>> = about
        .get("shape")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().map(|n| n.as_u64()?.try_into().ok()).collect());
    if shape.as_deref() != Some(&[rows, cols]) {
        let found = about.get("shape").unwrap_or(&Value::Null);
        let problem = format!("shape is {found}, the model's config.json asks for [{rows}, {cols}]");
        return Err(refuse("", problem));
    }
    let code: [f32; 16] = floats(".quant_map")?
        .try_into()
        .map_err(|v: Vec<f32>| refuse(".quant_map", format!("{} values found, expected 16", v.len())))?;
    let scales = if shards.get(&format!("{name}.nested_absmax")).is_some() {
        let map: [f32; 256] = floats(".nested_quant_map")?.try_into().map_err(|v: Vec<f32>| {
            refuse(".nested_quant_map", format!("{} values found, expected 256", v.len()))
        })?;
        let offset = about
            .get("nested_offset")
            .and_then(Value::as_f64)
            .ok_or_else(|| refuse(suffix, "`nested_offset` is missing or not a number".into()))?;
        Scales::Nested {
            codes: bytes(".absmax")?,
            absmax: floats(".nested_absmax")?.into(),
            map: Arc::new(map),
            offset: offset as f32,
            block: number("nested_blocksize")?,
        }
    } else {
        Scales::Plain(floats(".absmax")?.into())
    };
    let bits = FourBit::new(kind, number("blocksize")?, rows * cols, bytes("")?, scales, code)
        .map_err(|e| refuse("", e.to_string()))?;
    Ok(Weight::four_bit(rows, cols, bits)?)
}

/// The tensors that stand for a quantized weight; `dtype` (`float32`, `bfloat16`, ...) is what readers decode to.
pub fn tensors<'a>(
    name: &str,
    rows: usize,
    cols: usize,
    bits: &'a FourBit,
    dtype: &str,
) -> Vec<(String, OutTensor<'a>)> {
    let named = |suffix: &str, tensor| (format!("{name}{suffix}"), tensor);
    let floats = |values: &'a [f32]| OutTensor::f32(&[values.len()], values);
    let packed = bits.packed();
    let mut list = vec![
        named("", OutTensor::bytes(Dtype::U8, &[packed.len(), 1], packed)),
        named(".quant_map", floats(bits.code())),
    ];
    // The spacing of the text is Python's, so a file read and written again is the same bytes.
    let mut text = format!(
        "{{\"quant_type\": \"{}\", \"blocksize\": {}, \"dtype\": \"{dtype}\", \"shape\": [{rows}, {cols}]",
        bits.kind().name(),
        bits.block()
    );
    match bits.scales() {
        Scales::Plain(scales) => list.push(named(".absmax", floats(scales))),
        Scales::Nested { codes, absmax, map, offset, block } => {
            let codes = codes.as_slice();
            list.push(named(".absmax", OutTensor::bytes(Dtype::U8, &[codes.len()], codes)));
            list.push(named(".nested_absmax", floats(absmax)));
            list.push(named(".nested_quant_map", floats(&map[..])));
            let offset = Value::from(*offset as f64);
            text += &format!(
                ", \"nested_blocksize\": {block}, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}"
            );
        }
    }
    text += "}";
    let state = OutTensor::lazy(Dtype::U8, &[text.len()], move || text.clone().into_bytes());
    list.push((state_key(name, bits.kind()), state));
    list
}

/// The `quantization_config` of a `config.json` beside weights written by [`tensors`].
///
/// `compute` is the type that readers should multiply in, `skipped` the modules that were left in floats.
pub fn quantization_config(kind: FourBitKind, double: bool, compute: &str, skipped: &[&str]) -> Value {
    let skipped = if skipped.is_empty() { Value::Null } else { json!(skipped) };
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": kind.name(),
        "bnb_4bit_use_double_quant": double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skipped,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}
