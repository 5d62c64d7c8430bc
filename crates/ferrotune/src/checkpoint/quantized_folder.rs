//! A model folder in 4 bits, as transformers with bitsandbytes saves it and loads it without any option.
//!
//! Quantized are the linears of the layers; embedding and output head stay floats, as transformers leaves them. All
//! floats take one type, from which the linears are quantized: transformers casts a model before it quantizes it, and
//! the bytes depend on it. The block size is not in `quantization_config`; it stands beside each weight.

use std::path::Path;

use ferrotune_kernels::DType;
use ferrotune_kernels::quant::nf4::quantize;
use ferrotune_kernels::quant::{Bytes, Storage, Weight};
use serde_json::{Value, json};

use super::atomic::write_atomic;
use super::model_folder::{SHARD, encode, safetensors_dtype};
use super::safetensors::{OutTensor, Shards, write_model};
use super::{Checkpoint, bnb4};
use crate::model::weights::FourBitOptions;
use crate::{Error, Result};

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Linears in 4 bits.
    pub linears: usize,
    /// Type of all floats.
    pub dtype: DType,
    /// Bytes of the source's tensors, and of those written.
    pub bytes: (usize, usize),
}

/// Quantizes the model folder of `checkpoint` into `folder`; `dtype` is the type of its floats (by default that of its
/// configuration, else of its embedding).
///
/// All quantized weights are in memory before the first is written; floats are made one tensor at a time.
pub fn write(
    folder: &Path,
    checkpoint: &Checkpoint,
    options: FourBitOptions,
    dtype: Option<DType>,
) -> Result<Written> {
    let path = checkpoint.path();
    if !path.is_dir() {
        return Err(Error::file(path, "a GGUF file is rounded already, 4 bits would round it again")
            .with_hint("give the folder of the model that it was made from"));
    }
    if checkpoint.config().quantization.is_some() {
        return Err(Error::file(
            path.join("config.json"),
            "`quantization_config`: the model is quantized already",
        )
        .with_hint("give the unquantized model"));
    }
    let shards = Shards::open(path)?;
    let dtype = dtype.map_or_else(|| own_dtype(checkpoint, &shards), Ok)?;
    let mut linears = Vec::new();
    for name in shards.names().filter(|name| is_linear(name)) {
        let Some((file, tensor)) = shards.get(name) else { continue };
        let [rows, cols] = tensor.shape[..] else { continue };
        if name.contains(".experts.") || name.contains(".block_sparse_moe.") {
            return Err(Error::tensor(file.path(), name, "experts are not written in 4 bits").with_hint(
                "transformers holds them as one stacked tensor, which bitsandbytes does not quantize",
            ));
        }
        let weight = cast(checkpoint.weight(name, rows, cols)?, dtype)?;
        let weight = quantize(&weight, options.kind, options.block, options.double)
            .map_err(|e| Error::tensor(file.path(), name, e.to_string()))?;
        linears.push((name, weight));
    }
    let mut tensors = Vec::new();
    let mut from = 0;
    for name in shards.names() {
        let Some((_, tensor)) = shards.get(name) else { continue };
        from += tensor.bytes.as_slice().len();
        let quantized = linears.iter().find(|(n, _)| *n == name).map(|(_, w)| (w, w.storage()));
        if let Some((w, Storage::FourBit(bits))) = quantized {
            tensors.extend(bnb4::tensors(name, w.rows(), w.cols(), bits, float_name(dtype)));
        } else if tensor.to_f32().is_none() || tensor.dtype == safetensors_dtype(dtype) {
            let bytes = tensor.bytes.as_slice();
            tensors.push((name.to_string(), OutTensor::bytes(tensor.dtype, &tensor.shape, bytes)));
        } else {
            let make = move || encode(&tensor.to_f32().unwrap_or_default(), dtype);
            tensors.push((name.to_string(), OutTensor::lazy(safetensors_dtype(dtype), &tensor.shape, make)));
        }
    }
    let to = tensors.iter().map(|(_, t)| t.nbytes()).sum();
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    write_model(folder, tensors, SHARD)?;
    write_config(folder, checkpoint, options, dtype)?;
    for (name, content) in checkpoint.sidecars()? {
        write_atomic(&folder.join(name), &content)?;
    }
    Ok(Written { linears: linears.len(), dtype, bytes: (from, to) })
}

/// Weights of the linears in the layers; norms and biases have other shapes or names.
fn is_linear(name: &str) -> bool {
    name.starts_with("model.layers.") && name.ends_with(".weight")
}

fn own_dtype(checkpoint: &Checkpoint, shards: &Shards) -> Result<DType> {
    let raw = &checkpoint.config().raw;
    let named = raw.get("dtype").or_else(|| raw.get("torch_dtype")).and_then(Value::as_str);
    let all = [DType::F32, DType::F16, DType::Bf16];
    if let Some(dtype) = all.into_iter().find(|d| named == Some(float_name(*d))) {
        return Ok(dtype);
    }
    let embedding = shards.get("model.embed_tokens.weight").map(|(_, t)| t.dtype);
    all.into_iter().find(|d| embedding == Some(safetensors_dtype(*d))).ok_or_else(|| {
        Error::file(checkpoint.path(), "neither config.json nor the embedding says a type of floats")
            .with_hint("name it with --dtype f32, bf16 or f16")
    })
}

/// PyTorch's name of a type.
fn float_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
    }
}

fn cast(weight: Weight, dtype: DType) -> Result<Weight> {
    if matches!(weight.storage(), Storage::Dense(stored, _) if *stored == dtype) {
        return Ok(weight);
    }
    let mut values = vec![0.0; weight.rows() * weight.cols()];
    weight.decode_flat(0, &mut values);
    Ok(Weight::dense(weight.rows(), weight.cols(), dtype, Bytes::owned(encode(&values, dtype)))?)
}

fn write_config(folder: &Path, checkpoint: &Checkpoint, options: FourBitOptions, dtype: DType) -> Result<()> {
    let mut raw = checkpoint.config().raw.clone();
    if let Some(config) = raw.as_object_mut() {
        let name = float_name(dtype);
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        config.insert(key.into(), json!(name));
        let about = bnb4::quantization_config(options.kind, options.double, name, &[]);
        config.insert("quantization_config".into(), about);
    }
    write_atomic(&folder.join("config.json"), format!("{raw:#}\n").as_bytes())
}
