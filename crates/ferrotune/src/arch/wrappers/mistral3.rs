//! Mistral Small 3, Devstral and Ministral 3 with a Pixtral tower.

use super::{Text, Wrapper, gemma3};

pub(super) const WRAPPER: Wrapper = Wrapper {
    model_type: "mistral3",
    texts: &[MISTRAL, MINISTRAL],
    tied: true,
    flat: false,
    tree: gemma3::TREE,
};

const MISTRAL: Text = Text {
    family: "mistral",
    usual: &[
        ("vocab_size", 32_000),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 32),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131_072),
        ("sliding_window", 4096),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
    ],
};

const MINISTRAL: Text = Text {
    family: "ministral3",
    usual: &[
        ("vocab_size", 131_072),
        ("hidden_size", 4096),
        ("intermediate_size", 14_336),
        ("num_hidden_layers", 34),
        ("num_attention_heads", 32),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 262_144),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
        ("pad_token_id", 11),
    ],
};
