//! Formats that weights are quantized to, and in which they lie in safetensors files.
//!
//! A format is one file that implements [`QuantFormat`], an entry of `FORMATS` and a word of [`QuantKind`]. How its
//! values are decoded is its [`ferrotune_kernels::quant::Format`], which stands beside the kernels or in the same file.

pub mod bnb4;
mod bnb8;

use std::sync::Arc;

use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::{Bytes, Weight};
use serde_json::Value;

use super::safetensors::{OutTensor, Shards};
use crate::arch::config::ModelConfig;
use crate::options::choice;
use crate::{Error, Result};

/// All formats.
const FORMATS: &[&dyn QuantFormat] = &[&bnb4::NF4, &bnb4::FP4, &bnb8::Int8];

choice! {
    /// The form of a quantized frozen weight.
    pub enum QuantKind {
        /// `keep` for a base that is quantized already, else `nf4`.
        #[default]
        Auto = "auto",
        /// The form of the base file.
        Keep = "keep",
        /// 4-bit normal float.
        Nf4 = "nf4",
        /// 4-bit float.
        Fp4 = "fp4",
        /// 8-bit integers with a scale per row.
        Int8 = "int8",
    }
}

/// The options of a format; it sets those that it does not have to their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Blocks {
    /// Values that share a scale.
    pub block: usize,
    /// Whether the scales are quantized too.
    pub double: bool,
}

/// A format with its options.
#[derive(Clone, Copy)]
pub struct Quantized {
    format: &'static dyn QuantFormat,
    options: Blocks,
}

impl Quantized {
    /// The format of a word with those of the options that it has; none for `auto` and `keep`.
    pub fn new(kind: QuantKind, options: Blocks) -> Result<Option<Self>, String> {
        let Some(format) = FORMATS.iter().find(|format| format.kind() == kind) else { return Ok(None) };
        Ok(Some(Quantized { format: *format, options: format.options(options)? }))
    }

    /// Its word.
    pub fn kind(self) -> QuantKind {
        self.format.kind()
    }

    /// Its options.
    pub fn options(self) -> Blocks {
        self.options
    }

    /// Name and options, for people and for the names of kept bases.
    pub fn describe(self) -> String {
        self.format.describe(self.options)
    }

    /// Bytes that a value takes in a matrix with rows of `cols` values.
    pub(crate) fn bytes_per_value(self, cols: usize) -> f64 {
        self.format.bytes_per_value(self.options, cols)
    }

    /// A weight in this format, made on these threads.
    pub fn quantize(self, threads: &Threads, weight: &Weight) -> Result<Weight> {
        self.format.quantize(threads, weight, self.options)
    }

    /// The `quantization_config` of a folder whose linears are in this format; none if folders are not written in it.
    /// `kept` are the modules around the layers that are not in it, if there are any.
    pub(crate) fn quantization_config(self, compute: &str, kept: &[&str]) -> Option<Value> {
        self.format.quantization_config(self.options, compute, kept)
    }

    /// A matrix without content, whose bytes and scales are taken from `blank`.
    pub(super) fn blank(self, rows: usize, cols: usize, blank: &dyn Blank) -> Result<Weight> {
        self.format.blank(rows, cols, self.options, blank)
    }
}

impl std::fmt::Debug for Quantized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.describe())
    }
}

impl PartialEq for Quantized {
    fn eq(&self, other: &Self) -> bool {
        (self.kind(), self.options) == (other.kind(), other.options)
    }
}

/// A format of quantized weights.
pub trait QuantFormat: Sync {
    /// Its word in run files.
    fn kind(&self) -> QuantKind;

    /// The options that it has, of those given; an error says what is wrong with them.
    fn options(&self, given: Blocks) -> Result<Blocks, String>;

    /// Name and options, for people and for the names of kept bases.
    fn describe(&self, options: Blocks) -> String;

    /// Bytes that a value takes in a matrix with rows of `cols` values.
    fn bytes_per_value(&self, options: Blocks, cols: usize) -> f64;

    /// A weight in this format, made on these threads.
    fn quantize(&self, threads: &Threads, weight: &Weight, options: Blocks) -> Result<Weight>;

    /// The tensors that stand for the weight `name`, if it is in this format; `dtype` (`float32`, `bfloat16`, ...) is what
    /// readers decode to.
    fn tensors<'w>(
        &self,
        name: &str,
        weight: &'w Weight,
        dtype: &str,
    ) -> Option<Vec<(String, OutTensor<'w>)>>;

    /// Whether `name` is a part of a quantized weight and not a tensor of the model.
    fn is_part(&self, shards: &Shards, name: &str) -> bool;

    /// Reads the weight `name` if it is in this format; the values stay in the mapped file.
    fn read(&self, shards: &Shards, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>>;

    /// The options that the `quantization_config` of a `config.json` states, if it speaks of this format.
    fn stated(&self, config: &Value) -> Option<Result<Blocks, String>>;

    /// The `quantization_config` of a folder whose linears are in this format; none if folders are not written in it.
    /// `compute` (`float32`, `bfloat16`, ...) is what readers multiply in.
    fn quantization_config(&self, _: Blocks, _compute: &str, _kept: &[&str]) -> Option<Value> {
        None
    }

    /// A matrix without content: its bytes and scales are taken from `blank`. For plans.
    fn blank(&self, rows: usize, cols: usize, options: Blocks, blank: &dyn Blank) -> Result<Weight>;
}

/// Memory that is never touched.
pub trait Blank {
    /// Bytes that are never touched.
    fn bytes(&self, len: usize) -> Bytes;

    /// Scales that are never touched.
    fn scales(&self, len: usize) -> Arc<[f32]>;
}

/// Whether `name` is a part of a quantized weight and not a tensor of the model.
pub(super) fn is_part(shards: &Shards, name: &str) -> bool {
    FORMATS.iter().any(|format| format.is_part(shards, name))
}

/// Reads the weight `name` if it is quantized; its values stay in the mapped file.
pub(crate) fn read(shards: &Shards, name: &str, rows: usize, cols: usize) -> Result<Option<Weight>> {
    for format in FORMATS {
        if let Some(found) = format.read(shards, name, rows, cols)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The tensors that stand for the quantized weight `name`; none for a weight that is not quantized.
pub(crate) fn tensors<'w>(
    name: &str,
    weight: &'w Weight,
    dtype: &str,
) -> Option<Vec<(String, OutTensor<'w>)>> {
    FORMATS.iter().find_map(|format| format.tensors(name, weight, dtype))
}

/// The format in which the linears of a model folder are stored, if its configuration says that they are quantized.
pub(super) fn stated(config: &ModelConfig) -> Result<Option<Quantized>> {
    let about = &config.raw["quantization_config"];
    // What is in MXFP4 or FP8 is seen by its tensors.
    if about.is_null() || about["quant_method"] == "mxfp4" || super::fp8::is_stated(about) {
        return Ok(None);
    }
    let refuse = |problem: String| Error::file(&config.path, format!("`quantization_config`: {problem}"));
    match FORMATS.iter().find_map(|format| Some((*format, format.stated(about)?))) {
        Some((format, options)) => Ok(Some(Quantized { format, options: options.map_err(refuse)? })),
        None => {
            let method = about["quant_method"].as_str().unwrap_or("unnamed");
            let problem = format!(
                "weights quantized by `{method}` are not read (bitsandbytes 4-bit and 8-bit, MXFP4 and FP8 are)"
            );
            Err(refuse(problem).with_hint(
                "use the original unquantized model as the base; it is quantized while loading if the run asks for it",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_but_auto_and_keep_is_a_format() {
        for &kind in QuantKind::ALL {
            let expected = !matches!(kind, QuantKind::Auto | QuantKind::Keep);
            let found = Quantized::new(kind, Blocks { block: 64, double: false }).unwrap();
            assert_eq!(found.is_some(), expected, "{kind}");
        }
    }
}
