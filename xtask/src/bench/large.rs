//! A model of TinyLlama's shape with random weights: what a larger model costs does not depend on what it knows.

use std::path::{Path, PathBuf};

use ferrotune::checkpoint::safetensors::{Dtype, OutTensor, write};
use ferrotune_kernels::rng::Stream;
use serde_json::json;

use crate::golden::Failure;

const LAYERS: usize = 22;
const HIDDEN: usize = 2048;
const FFN: usize = 5632;
const HEADS: usize = 32;
const KV_HEADS: usize = 4;
/// SmolLM2's, so that both models read the same ids.
const VOCAB: usize = 49152;

/// Names and shapes; a norm has one size.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let kv = HIDDEN / HEADS * KV_HEADS;
    let mut all = vec![("model.embed_tokens.weight".to_string(), vec![VOCAB, HIDDEN])];
    for i in 0..LAYERS {
        let at = |name: &str, shape: &[usize]| (format!("model.layers.{i}.{name}.weight"), shape.to_vec());
        all.extend([
            at("self_attn.q_proj", &[HIDDEN, HIDDEN]),
            at("self_attn.k_proj", &[kv, HIDDEN]),
            at("self_attn.v_proj", &[kv, HIDDEN]),
            at("self_attn.o_proj", &[HIDDEN, HIDDEN]),
            at("mlp.gate_proj", &[FFN, HIDDEN]),
            at("mlp.up_proj", &[FFN, HIDDEN]),
            at("mlp.down_proj", &[HIDDEN, FFN]),
            at("input_layernorm", &[HIDDEN]),
            at("post_attention_layernorm", &[HIDDEN]),
        ]);
    }
    all.extend([
        ("model.norm.weight".to_string(), vec![HIDDEN]),
        ("lm_head.weight".to_string(), vec![VOCAB, HIDDEN]),
    ]);
    all
}

/// bf16 bytes: ones for a norm, else normal with deviation 0.02. Dropping the lower half of an f32 makes a bf16.
fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let s = Stream::new(3, name, 0);
    let value = |i: u64| if shape.len() == 1 { 1.0 } else { 0.02 * s.normal(i) };
    let count: usize = shape.iter().product();
    (0..count as u64).flat_map(|i| ((value(i).to_bits() >> 16) as u16).to_le_bytes()).collect()
}

/// The folder, written once (2.2 GB), with the tokenizer of `tokenizer_of`.
pub(super) fn folder(work: &Path, tokenizer_of: &Path) -> Result<PathBuf, Failure> {
    let folder = work.join("llama-1.1b");
    let weights = folder.join("model.safetensors");
    if weights.exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(&folder)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCAB, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "attention_bias": false,
        "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "bfloat16",
    });
    std::fs::write(folder.join("config.json"), format!("{config:#}\n"))?;
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer_of.join(file), folder.join(file))?;
    }
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
    fn it_has_the_promised_size() {
        let count: usize = shapes().iter().map(|(_, s)| s.iter().product::<usize>()).sum();
        assert_eq!((count as f64 / 1e7).round(), 117.0);
        let bytes = values("a", &[4, 8]);
        assert_eq!(bytes.len(), 64);
        assert!(bytes.iter().any(|b| *b != bytes[0]));
        assert_eq!(values("n", &[2]), [0x80, 0x3f, 0x80, 0x3f]);
    }
}
