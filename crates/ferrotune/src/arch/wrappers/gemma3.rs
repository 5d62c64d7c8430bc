//! Gemma 3 with a SigLIP tower (4B, 12B, 27B).

use super::{Text, Wrapper};
use crate::arch::tree::Tree;

pub(super) const WRAPPER: Wrapper =
    Wrapper { model_type: "gemma3", texts: &[TEXT], tied: true, flat: false, tree: TREE };

const TEXT: Text = Text {
    family: "gemma3_text",
    usual: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 131_072),
        ("bos_token_id", 2),
        ("eos_token_id", 1),
        ("pad_token_id", 0),
    ],
};

/// As LLaVA has it: the head was inside of the text model before.
pub(super) const TREE: Tree = Tree {
    decoder: "model.language_model",
    embedding: "model.language_model.embed_tokens",
    renamed: &[
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "model.language_model."),
        ("vision_tower.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
    carried: &["model.vision_tower", "model.multi_modal_projector"],
};
