//! Qwen2.5-VL. Its first files have the configuration of the text at the top, and the text model where others have theirs.

use super::{Text, Wrapper};
use crate::arch::tree::Tree;

pub(super) const WRAPPER: Wrapper =
    Wrapper { model_type: "qwen2_5_vl", texts: &[TEXT], tied: false, flat: true, tree: TREE };

const TEXT: Text = Text {
    family: "qwen2_5_vl_text",
    usual: &[
        ("vocab_size", 152_064),
        ("hidden_size", 8192),
        ("intermediate_size", 29_568),
        ("num_hidden_layers", 80),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 32_768),
        ("sliding_window", 4096),
        ("max_window_layers", 80),
        ("bos_token_id", 151_643),
        ("eos_token_id", 151_645),
    ],
};

const TREE: Tree = Tree {
    decoder: "model.language_model",
    embedding: "model.language_model.embed_tokens",
    renamed: &[
        ("visual.", "model.visual."),
        ("model.visual.", "model.visual."),
        ("model.language_model.", "model.language_model."),
        ("model.", "model.language_model."),
    ],
    carried: &["model.visual"],
};
