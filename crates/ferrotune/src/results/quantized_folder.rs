//! A model folder in 4 bits, as transformers with bitsandbytes saves it and loads it without any option.
//!
//! Quantized are the linears of the layers; embedding and output head stay floats, as transformers leaves them. All
//! floats take one type, from which the linears are quantized: transformers casts a model before it quantizes it, and
//! the bytes depend on it. The block size is not in `quantization_config`; it stands beside each weight.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use ferrotune_kernels::quant::{Bytes, Weight};
use ferrotune_kernels::{DType, Threads};
use serde_json::{Value, json};

use super::model_folder::{SHARD, encode, safetensors_dtype, write_sidecar};
use crate::arch::config::ModelConfig;
use crate::formats::Checkpoint;
use crate::formats::atomic::write_atomic;
use crate::formats::quantized::{self, Quantized};
use crate::formats::safetensors::{OutTensor, SafeFile, Shards, TensorRef, write_model};
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
/// One matrix is in memory at a time. A file begins with what depends on all that follows, so each linear is quantized
/// twice: once for its scales' offset, whose digits are in the file, and again when its turn to be written comes.
pub fn write(
    threads: &Threads,
    folder: &Path,
    checkpoint: &Checkpoint,
    format: Quantized,
    dtype: Option<DType>,
) -> Result<Written> {
    let path = checkpoint.path();
    if !path.is_dir() {
        return Err(Error::file(path, "a GGUF file is rounded already, 4 bits would round it again")
            .with_hint("give the folder of the model that it was made from"));
    }
    if !checkpoint.config().raw["quantization_config"].is_null() {
        return Err(Error::file(
            path.join("config.json"),
            "`quantization_config`: the model is quantized already",
        )
        .with_hint("give the unquantized model"));
    }
    let tree = checkpoint.config().tree;
    let shards = Shards::open(path)?.in_tree(tree)?;
    let dtype = dtype.map_or_else(|| own_dtype(checkpoint, &shards), Ok)?;
    // A reader quantizes all linears but the head of a model if it is not told otherwise.
    let kept: Vec<&str> = tree.carried.iter().copied().chain(["lm_head"]).collect();
    let kept = if tree.carried.is_empty() { &[] } else { &kept[..] };
    let about = format.quantization_config(float_name(dtype), kept).ok_or_else(|| {
        Error::file(folder, format!("folders are not written in {}", format.kind()))
            .with_hint("bitsandbytes' nf4 and fp4 are")
    })?;
    let source = Source { threads, checkpoint, format, dtype, last: RefCell::default() };
    let before: Cell<Option<(&SafeFile, &TensorRef)>> = Cell::new(None);
    let (before, mut tensors) = (&before, Vec::new());
    let (mut linears, mut from) = (0, 0);
    for name in shards.names().filter(|name| !tree.carries(name)) {
        let Some((file, tensor)) = shards.get(name) else { continue };
        from += tensor.bytes.as_slice().len();
        // Norms and biases have other shapes or names.
        if let (true, [rows, cols]) = (tree.is_in_layer(name) && name.ends_with(".weight"), &tensor.shape[..])
        {
            if name.contains(".experts.") || name.contains(".block_sparse_moe.") {
                return Err(Error::tensor(file.path(), name, "experts are not written in 4 bits").with_hint(
                    "transformers holds them as one stacked tensor, which bitsandbytes does not quantize",
                ));
            }
            linears += 1;
            tensors.extend(source.linear(name, *rows, *cols)?);
            continue;
        }
        let out = match tensor.dtype == safetensors_dtype(dtype) || !tensor.is_float() {
            true => OutTensor::bytes(tensor.dtype, &tensor.shape, tensor.bytes.as_slice()),
            false => OutTensor::lazy(safetensors_dtype(dtype), &tensor.shape, move || {
                encode(&tensor.to_f32().unwrap_or_default(), dtype)
            }),
        };
        // When its turn comes, the one before is written.
        let out = out.when_written(move || {
            before.replace(Some((file, tensor))).into_iter().for_each(|(file, tensor)| file.release(tensor))
        });
        tensors.push((shards.in_file(name).to_string(), out));
    }
    let carried = checkpoint.carried()?;
    from += carried.iter().map(|(_, t)| t.nbytes()).sum::<usize>();
    tensors.extend(carried);
    let to = tensors.iter().map(|(_, t)| t.nbytes()).sum();
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    write_model(folder, tensors, SHARD)?;
    write_config(folder, checkpoint, about, dtype)?;
    for (name, content) in checkpoint.sidecars()? {
        write_sidecar(folder, &name, &content)?;
    }
    Ok(Written { linears, dtype, bytes: (from, to) })
}

/// Where linears are quantized, one at a time.
struct Source<'a> {
    threads: &'a Threads,
    checkpoint: &'a Checkpoint,
    format: Quantized,
    dtype: DType,
    /// The linear whose turn it was last: its packed values and its scales are written one after the other.
    last: RefCell<Option<(String, Rc<Weight>)>>,
}

impl Source<'_> {
    fn quantized(&self, name: &str, rows: usize, cols: usize) -> Result<Rc<Weight>> {
        if let Some((last, weight)) = &*self.last.borrow()
            && last == name
        {
            return Ok(Rc::clone(weight));
        }
        self.last.take();
        let weight = cast(self.checkpoint.weight(name, rows, cols)?, self.dtype)?;
        let refuse = |e: Error| Error::tensor(self.checkpoint.path(), name, e.to_string());
        let weight = Rc::new(self.format.quantize(self.threads, &weight).map_err(refuse)?);
        self.checkpoint.release(name);
        self.last.replace(Some((name.to_string(), Rc::clone(&weight))));
        Ok(weight)
    }

    /// What is written for a linear: small parts are kept, the others made again.
    fn linear<'s>(&'s self, name: &str, rows: usize, cols: usize) -> Result<Vec<(String, OutTensor<'s>)>> {
        let weight = self.quantized(name, rows, cols)?;
        let in_file = self.checkpoint.name_in_files(name);
        let out = parts(&in_file, &weight, self.dtype).into_iter().enumerate().map(|(i, (part, tensor))| {
            let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
            if tensor.nbytes() <= SMALL {
                let bytes = tensor.content().into_owned();
                return (part, OutTensor::lazy(dtype, &shape, move || bytes.clone()));
            }
            let name = name.to_string();
            let again = move || {
                let weight = self.quantized(&name, rows, cols).expect("it was quantized before");
                let part = parts(&name, &weight, self.dtype).into_iter().nth(i);
                part.map(|(_, tensor)| tensor.content().into_owned()).unwrap_or_default()
            };
            (part, OutTensor::lazy(dtype, &shape, again))
        });
        Ok(out.collect())
    }
}

/// The tensors that stand for a quantized linear.
fn parts<'w>(name: &str, weight: &'w Weight, dtype: DType) -> Vec<(String, OutTensor<'w>)> {
    quantized::tensors(name, weight, float_name(dtype)).unwrap_or_default()
}

/// Bytes of a part that is kept from the first time on.
const SMALL: usize = 4096;

fn own_dtype(checkpoint: &Checkpoint, shards: &Shards) -> Result<DType> {
    let config = checkpoint.config();
    let named = config.float_type();
    let all = [DType::F32, DType::F16, DType::Bf16];
    if let Some(dtype) = all.into_iter().find(|d| named == Some(float_name(*d))) {
        return Ok(dtype);
    }
    let embedding = shards.get(&format!("{}.weight", config.tree.embedding)).map(|(_, t)| t.dtype);
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
    if weight.dtype() == Some(dtype) {
        return Ok(weight);
    }
    let mut values = vec![0.0; weight.rows() * weight.cols()];
    weight.decode_flat(0, &mut values);
    Ok(Weight::dense(weight.rows(), weight.cols(), dtype, Bytes::owned(encode(&values, dtype)))?)
}

fn write_config(folder: &Path, checkpoint: &Checkpoint, about: Value, dtype: DType) -> Result<()> {
    let mut raw = checkpoint.config().raw.clone();
    if let Some(config) = raw.as_object_mut() {
        let name = float_name(dtype);
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        ModelConfig::set(config, key, &json!(name));
        config.insert("quantization_config".into(), about);
    }
    write_atomic(&folder.join("config.json"), format!("{raw:#}\n").as_bytes())
}
