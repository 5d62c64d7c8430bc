//! Gemma 4 with towers for pictures and sound.

use super::{Text, Wrapper};
use crate::arch::tree::Tree;

pub(super) const WRAPPER: Wrapper =
    Wrapper { model_type: "gemma4", texts: &[TEXT], tied: true, flat: false, tree: TREE };

const TEXT: Text = Text {
    family: "gemma4_text",
    usual: &[
        ("vocab_size", 262_144),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 30),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("bos_token_id", 2),
        ("eos_token_id", 1),
        ("pad_token_id", 0),
    ],
};

/// Its files have the names of today.
const TREE: Tree = Tree {
    decoder: "model.language_model",
    embedding: "model.language_model.embed_tokens",
    renamed: &[],
    carried: &["model.vision_tower", "model.embed_vision", "model.audio_tower", "model.embed_audio"],
};
