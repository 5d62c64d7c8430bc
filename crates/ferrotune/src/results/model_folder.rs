//! A Hugging Face model folder made from what is in memory: merged adapters, fully fine-tuned models.

use std::borrow::Cow;
use std::path::Path;

use ::safetensors::Dtype;
use ferrotune_kernels::{DType, Tensor};
use serde_json::{Value, json};

use super::stacked::{Stacked, Stacks};
use super::stops;
use crate::arch::config::ModelConfig;
use crate::base::BaseModel;
use crate::formats::atomic::write_atomic;
use crate::formats::safetensors::{OutTensor, write_model};
use crate::lora::Adapter;
use crate::merge::{check, merged_embedding, merged_tied_head, merged_vector, merged_weight, unties};
use crate::model::parts::{Base, LinearLayer, SmallTensor, Vector};
use crate::model::{Decoder, Params};
use crate::{Error, Result};

/// Bytes of a shard at most, as transformers splits.
pub(crate) const SHARD: usize = 5_000_000_000;

/// What a result says otherwise than its base does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learned<'a> {
    /// Further tokens that end an answer.
    pub ends: &'a [u32],
    /// The chat template, if it is not the base's.
    pub template: Option<&'a str>,
}

/// Writes the model with its adapter folded in, or with its trained parameters, to `folder` as `dtype`.
///
/// Weights are made one at a time: the peak is the model in memory and one matrix.
pub fn write(
    folder: &Path,
    base: &BaseModel,
    model: &Decoder,
    params: &Params,
    adapter: Option<&Adapter>,
    dtype: DType,
    learned: Learned<'_>,
) -> Result<()> {
    if let Some(adapter) = adapter {
        check(model, adapter)?;
    }
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let stacks = Stacks::of(model);
    let mut tensors = Vec::new();
    let kind = safetensors_dtype(dtype);
    let a = &model.arch;
    let embedding = move || {
        let bytes = encode(&embedding(model, params, adapter), dtype);
        leave(&model.embed, params);
        bytes
    };
    tensors.push((a.embedding_weight(), OutTensor::lazy(kind, &[a.vocab, a.hidden], embedding)));
    let Stacked { made, mut as_they_were } = stacks.tensors(base, model, params, adapter, dtype);
    tensors.extend(made);
    // Linears that were merged, beside others that stay in FP8.
    let mut merged = Vec::new();
    for linear in model.linears().into_iter().filter(|l| !stacks.hold(&l.name)) {
        let same = params.is_empty() && !adapter.is_some_and(|adapter| adapter.changes(linear));
        let name = format!("{}.weight", linear.name);
        let as_it_was = if same { base.checkpoint.packed(&name) } else { Vec::new() };
        if !as_it_was.is_empty() {
            as_they_were.extend(as_it_was);
            continue;
        }
        merged.push(linear.name.as_str());
        let values = move || {
            let bytes = encode(&linear_values(linear, params, adapter), dtype);
            leave(&linear.base, params);
            bytes
        };
        tensors.push((name, OutTensor::lazy(kind, &[linear.rows, linear.cols], values)));
    }
    let untied = unties(model, adapter);
    if untied {
        let values = move || encode(&merged_tied_head(model, adapter), dtype);
        tensors.push(("lm_head.weight".into(), OutTensor::lazy(kind, &[a.vocab, a.hidden], values)));
    }
    let small = model.small_tensors().into_iter().filter(|t| !stacks.hold(&t.name));
    for SmallTensor { name, values, part, shape } in small {
        let own = &vector_value(values, params).host_f32()[part];
        let value = merged_vector(model, &name, own, adapter);
        tensors.push((name, OutTensor::lazy(kind, &shape, move || encode(&value, dtype))));
    }
    for (name, shape, values) in model.constants() {
        tensors.push((name, OutTensor::lazy(Dtype::F32, &shape, || encode(values, DType::F32))));
    }
    tensors.iter_mut().for_each(|(name, _)| *name = base.checkpoint.name_in_files(name));
    let packed = !as_they_were.is_empty();
    tensors.extend(as_they_were);
    tensors.extend(base.checkpoint.carried()?);
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write_model(folder, tensors, SHARD)?;
    let quantized = packed.then_some(&merged[..]);
    write_config(folder, base, dtype, untied, quantized, learned.ends)?;
    write_sidecars(folder, base, learned)
}

/// Tokenizer, chat template and generation settings of the base, with what was learned.
pub(crate) fn write_sidecars(folder: &Path, base: &BaseModel, learned: Learned<'_>) -> Result<()> {
    for (name, content) in base.checkpoint.sidecars()? {
        match learned.template {
            None => write_sidecar(folder, &name, &content)?,
            // No template but the chosen one, wherever readers look for one.
            Some(_) if name.contains(TEMPLATE) => {}
            Some(_) if name == "tokenizer_config.json" => {
                let mut config = crate::json::in_file(Path::new(&name), &content)?;
                config.as_object_mut().map(|fields| fields.shift_remove(TEMPLATE));
                write_sidecar(folder, &name, format!("{config:#}\n").as_bytes())?;
            }
            Some(_) => write_sidecar(folder, &name, &content)?,
        }
    }
    if let Some(template) = learned.template {
        write_sidecar(folder, TEMPLATE_FILE, template.as_bytes())?;
    }
    stops::write(folder, &base.checkpoint, learned.ends)
}

/// What files and keys of chat templates are called.
const TEMPLATE: &str = "chat_template";

/// The file of the chat template, where transformers looks first.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";

/// Writes a file beside the weights; a few of them have a folder of their own.
pub(crate) fn write_sidecar(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = folder.join(name);
    if let Some(inside) = path.parent() {
        std::fs::create_dir_all(inside).map_err(|e| Error::io(inside, e))?;
    }
    write_atomic(&path, content)
}

fn write_config(
    folder: &Path,
    base: &BaseModel,
    dtype: DType,
    untied: bool,
    quantized: Option<&[&str]>,
    learned: &[u32],
) -> Result<()> {
    let own = base.checkpoint.config();
    let mut raw = own.raw.clone();
    if let Some(config) = raw.as_object_mut() {
        stops::add_to_config(config, &own.eos_token_ids, learned);
        // The folder holds plain floats, whatever the base was, but for what stayed packed.
        match (quantized, config.get_mut("quantization_config")) {
            (Some(merged), Some(about)) => leave_out(about, merged),
            _ => {
                config.remove("quantization_config");
            }
        }
        let name = match dtype {
            DType::F32 => "float32",
            DType::F16 => "float16",
            DType::Bf16 => "bfloat16",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        ModelConfig::set(config, key, &json!(name));
        if untied {
            ModelConfig::set(config, "tie_word_embeddings", &json!(false));
        }
        config.entry("architectures").or_insert_with(|| Value::Null);
    }
    write_atomic(&folder.join("config.json"), format!("{raw:#}\n").as_bytes())
}

/// Says in a `quantization_config` that these linears are plain floats.
fn leave_out(about: &mut Value, linears: &[&str]) {
    let key = if about["quant_method"] == "compressed-tensors" { "ignore" } else { "modules_to_not_convert" };
    if about["quant_method"] == "mxfp4" {
        return; // It speaks of experts alone.
    }
    let mut all: Vec<Value> = about[key].as_array().cloned().unwrap_or_default();
    all.extend(linears.iter().map(|name| json!(name)));
    all.dedup();
    about[key] = Value::Array(all);
}

fn embedding<'a>(model: &Decoder, params: &'a Params, adapter: Option<&Adapter>) -> Cow<'a, [f32]> {
    match &model.embed {
        Base::Trained(id) => params.get(*id).host_f32().into(),
        Base::Frozen(_) => merged_embedding(model, adapter).into(),
    }
}

pub(super) fn linear_values<'a>(
    linear: &LinearLayer,
    params: &'a Params,
    adapter: Option<&Adapter>,
) -> Cow<'a, [f32]> {
    match &linear.base {
        Base::Trained(id) => params.get(*id).host_f32().into(),
        Base::Frozen(_) => merged_weight(linear, adapter).into(),
    }
}

/// Gives the memory behind a parameter that lies in a file back.
fn leave(base: &Base, params: &Params) {
    if let Base::Trained(id) = base {
        params.get(*id).release();
    }
}

pub(super) fn vector_value<'a>(v: &'a Vector, params: &'a Params) -> &'a Tensor {
    match v {
        Vector::Frozen(t) => t,
        Vector::Trained(id) => params.get(*id),
    }
}

pub(crate) fn safetensors_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}

pub(crate) fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    // Of the right size at once: a table of a large vocabulary would be copied over and over as it grows.
    let mut bytes = Vec::with_capacity(values.len() * dtype.size());
    match dtype {
        DType::F32 => values.iter().for_each(|v| bytes.extend(v.to_le_bytes())),
        DType::F16 => values.iter().for_each(|v| bytes.extend(half::f16::from_f32(*v).to_le_bytes())),
        DType::Bf16 => values.iter().for_each(|v| bytes.extend(half::bf16::from_f32(*v).to_le_bytes())),
    }
    bytes
}
