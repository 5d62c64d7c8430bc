//! A model of TinyLlama's shape with random weights in bf16.

use std::path::{Path, PathBuf};

use ferrotune::formats::safetensors::{Dtype, OutTensor, write};
use ferrotune_kernels::rng::Stream;
use serde_json::Value;

use super::llama_shape::TINY_LLAMA;
use crate::golden::Failure;

/// Names and shapes; a norm has one size.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let s = TINY_LLAMA;
    let matrix = |(name, shape): (String, [usize; 2])| (name, shape.to_vec());
    let layers = (0..s.layers).flat_map(|i| {
        let norms = s.norms(i).map(|name| (name, vec![s.hidden]));
        s.linears(i).into_iter().map(matrix).chain(norms)
    });
    let norm = ("model.norm.weight".to_string(), vec![s.hidden]);
    layers.chain(s.outer().map(matrix)).chain([norm]).collect()
}

/// bf16 bytes: ones for a norm, else normal with deviation 0.02. Dropping the lower half of an f32 makes a bf16.
pub(super) fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let s = Stream::new(3, name, 0);
    let value = |i: u64| if shape.len() == 1 { 1.0 } else { 0.02 * s.normal(i) };
    let count: usize = shape.iter().product();
    (0..count as u64).flat_map(|i| ((value(i).to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// Configuration and tokenizer of a model with random weights.
pub(super) fn describe(folder: &Path, config: &Value, tokenizer_of: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    std::fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer_of.join(file), folder.join(file))?;
    }
    Ok(())
}

/// The folder, written once (2.2 GB), with the tokenizer of `tokenizer_of`.
pub(super) fn folder(work: &Path, tokenizer_of: &Path) -> Result<PathBuf, Failure> {
    let folder = work.join("llama-1.1b");
    let weights = folder.join("model.safetensors");
    if weights.exists() {
        return Ok(folder);
    }
    describe(&folder, &TINY_LLAMA.config(), tokenizer_of)?;
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let (of, sizes) = (name.clone(), shape.clone());
        (name, OutTensor::lazy(Dtype::BF16, &shape, move || values(&of, &sizes)))
    };
    let tensors: Vec<(String, OutTensor<'_>)> = shapes().into_iter().map(tensor).collect();
    write(&weights, &tensors)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bf16_and_differ() {
        let bytes = values("a", &[4, 8]);
        assert_eq!(bytes.len(), 64);
        assert!(bytes.iter().any(|b| *b != bytes[0]));
        assert_eq!(values("n", &[2]), [0x80, 0x3f, 0x80, 0x3f]);
    }
}
