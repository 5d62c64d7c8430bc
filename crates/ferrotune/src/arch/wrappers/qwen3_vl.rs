//! Qwen3-VL. Its checkpoints have had the names of today from the beginning.

use super::{Text, Wrapper};
use crate::arch::tree::Tree;

pub(super) const WRAPPER: Wrapper =
    Wrapper { model_type: "qwen3_vl", texts: &[TEXT], tied: false, flat: false, tree: TREE };

const TEXT: Text = Text {
    family: "qwen3_vl_text",
    usual: &[
        ("vocab_size", 151_936),
        ("hidden_size", 4096),
        ("intermediate_size", 22_016),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 32),
        ("max_position_embeddings", 128_000),
    ],
};

const TREE: Tree = Tree {
    decoder: "model.language_model",
    embedding: "model.language_model.embed_tokens",
    renamed: &[],
    carried: &["model.visual"],
};
