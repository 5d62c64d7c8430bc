//! Shapes of Llama models whose weights are random: what a model costs does not depend on what it knows.

use serde_json::{Value, json};

/// Sizes of a Llama.
#[derive(Debug, Clone, Copy)]
pub(super) struct LlamaShape {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) ffn: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) vocab: usize,
}

/// TinyLlama, but with the vocabulary of SmolLM2, so that both models read the same ids.
pub(super) const TINY_LLAMA: LlamaShape =
    LlamaShape { layers: 22, hidden: 2048, ffn: 5632, heads: 32, kv_heads: 4, vocab: 49152 };

/// LLaMA 65B (Touvron et al. 2023).
pub(super) const LLAMA_65B: LlamaShape =
    LlamaShape { layers: 80, hidden: 8192, ffn: 22016, heads: 64, kv_heads: 64, vocab: 32000 };

/// A matrix by name: rows (outputs) and columns (inputs).
pub(super) type Matrix = (String, [usize; 2]);

impl LlamaShape {
    /// The linears of a layer.
    pub(super) fn linears(&self, layer: usize) -> Vec<Matrix> {
        let (hidden, ffn, kv) = (self.hidden, self.ffn, self.hidden / self.heads * self.kv_heads);
        let at = |name: &str, shape| (format!("model.layers.{layer}.{name}.weight"), shape);
        vec![
            at("self_attn.q_proj", [hidden, hidden]),
            at("self_attn.k_proj", [kv, hidden]),
            at("self_attn.v_proj", [kv, hidden]),
            at("self_attn.o_proj", [hidden, hidden]),
            at("mlp.gate_proj", [ffn, hidden]),
            at("mlp.up_proj", [ffn, hidden]),
            at("mlp.down_proj", [hidden, ffn]),
        ]
    }

    /// The norms of a layer, each of the hidden size.
    pub(super) fn norms(&self, layer: usize) -> [String; 2] {
        ["input_layernorm", "post_attention_layernorm"]
            .map(|name| format!("model.layers.{layer}.{name}.weight"))
    }

    /// Embedding and head.
    pub(super) fn outer(&self) -> [Matrix; 2] {
        ["model.embed_tokens.weight", "lm_head.weight"]
            .map(|name| (name.to_string(), [self.vocab, self.hidden]))
    }

    /// What `config.json` says.
    pub(super) fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.ffn, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "vocab_size": self.vocab,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "attention_bias": false, "mlp_bias": false, "bos_token_id": 1,
            "eos_token_id": 2, "torch_dtype": "bfloat16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_promised_size() {
        let size = |all: &[Matrix]| all.iter().map(|(_, [rows, cols])| rows * cols).sum::<usize>();
        let values = |s: LlamaShape| s.layers * size(&s.linears(0)) + size(&s.outer());
        assert_eq!((values(TINY_LLAMA) as f64 / 1e7).round(), 117.0);
        assert_eq!((values(LLAMA_65B) as f64 / 1e8).round(), 653.0);
    }
}
