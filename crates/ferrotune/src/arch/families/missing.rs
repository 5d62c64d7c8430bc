//! What a network that is refused has and none here has, and which family is nearest to it.

use serde_json::{Map, Value};

/// Keys of `config.json` that only networks with a certain piece have, and the piece.
const PIECES: &[(&str, &str)] = &[
    ("text_config", "a text model inside a model for pictures or sound"),
    ("kv_lora_rank", "multi-head latent attention (MLA)"),
    ("hidden_size_per_layer_input", "embeddings for each layer"),
    ("num_kv_shared_layers", "keys and values that layers share"),
    ("attention_chunk_size", "attention in chunks"),
    ("rwkv_version", "RWKV layers"),
    ("lru_width", "recurrent blocks (RG-LRU)"),
    ("alibi", "ALiBi in the place of rotary embeddings"),
    ("relative_attention_num_buckets", "relative position buckets and an encoder"),
    ("is_encoder_decoder", "an encoder"),
    ("n_head", "an older layout of the network (GPT-2's names)"),
];

/// What a family that is not supported lacks here, by its configuration, and the supported one that shares most with it.
pub(super) fn hint(model_type: &str, config: &Map<String, Value>) -> String {
    let has =
        |key: &str| config.get(key).is_some_and(|value| !value.is_null() && *value != Value::Bool(false));
    let mut pieces: Vec<&str> = PIECES.iter().filter(|(key, _)| has(key)).map(|(_, piece)| *piece).collect();
    pieces.dedup();
    let missing = match pieces.is_empty() {
        true => "its own code, which was not compared with that of a supported family".to_string(),
        false => pieces.join(", "),
    };
    format!("what is missing: {missing}; the nearest supported family is `{}`", nearest(model_type, &has))
}

/// The supported families whose layers have experts.
pub(super) const HAVE_EXPERTS: &[&str] = &[
    "mixtral",
    "qwen3_moe",
    "olmoe",
    "qwen2_moe",
    "minimax_m2",
    "qwen3_5_moe_text",
    "qwen3_next",
    "gpt_oss",
];

fn nearest(model_type: &str, has: &dyn Fn(&str) -> bool) -> &'static str {
    // The family of the same name, whatever its version.
    let stem = |name: &str| name.chars().take_while(|c| c.is_ascii_alphabetic()).collect::<String>();
    let experts = ["num_experts", "num_local_experts", "n_routed_experts"].into_iter().any(has);
    let of_kind = |family: &&super::Family| {
        // Text parts are no models of their own.
        let alone = !family.model_type.ends_with("_vl_text");
        let has_experts = HAVE_EXPERTS.contains(&family.model_type);
        alone && has_experts == experts && stem(family.model_type) == stem(model_type)
    };
    match super::FAMILIES.iter().filter(of_kind).max_by_key(|family| family.model_type) {
        Some(family) => family.model_type,
        None if experts => "qwen3_moe",
        None if ["mamba_d_state", "ssm_state_size"].into_iter().any(has) => "granitemoehybrid",
        None if has("sliding_window") => "mistral",
        None => "llama",
    }
}
