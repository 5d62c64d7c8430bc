//! Qwen 3.5. Its files have a module that predicts several tokens (`mtp`), which transformers does not load either.

use super::{Text, Wrapper};
use crate::arch::tree::Tree;

pub(super) const WRAPPER: Wrapper =
    Wrapper { model_type: "qwen3_5", texts: &[TEXT], tied: false, flat: false, tree: TREE };

const TEXT: Text = Text {
    family: "qwen3_5_text",
    usual: &[
        ("vocab_size", 248_320),
        ("hidden_size", 4096),
        ("intermediate_size", 12_288),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 16),
        ("num_key_value_heads", 4),
        ("max_position_embeddings", 32_768),
    ],
};

/// `AutoModelForCausalLM` makes the text model alone of it, whose adapters have the shorter paths.
const TREE: Tree = Tree {
    decoder: "model.language_model",
    embedding: "model.language_model.embed_tokens",
    renamed: &[
        ("model.visual.", "model.visual."),
        ("model.language_model.", "model.language_model."),
        ("model.", "model.language_model."),
    ],
    carried: &["model.visual", "mtp"],
};
