//! What configurations mean, and which are refused.

use serde_json::json;

use super::*;
use crate::arch::architecture::Values;
use crate::arch::config::RopeScaling;

fn base() -> Value {
    json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
           "num_attention_heads": 4, "vocab_size": 320})
}

fn with(changes: Value) -> Result<ModelConfig> {
    let mut raw = base();
    for (k, v) in changes.as_object().unwrap() {
        raw[k] = v.clone();
    }
    config_from_json(Path::new("config.json"), raw)
}

fn refusal(changes: Value) -> String {
    with(changes).unwrap_err().to_string()
}

#[test]
fn defaults_of_old_configs() {
    let c = with(json!({})).unwrap();
    assert_eq!((c.num_key_value_heads, c.head_dim, c.max_position_embeddings), (4, 16, 2048));
    assert_eq!((c.rope.theta, c.rope.scaling), (None, RopeScaling::None));
    assert!(c.tie_word_embeddings.is_none() && c.eos_token_ids.is_empty() && c.sliding_window.is_none());
}

#[test]
fn token_ids_may_be_lists_or_negative() {
    let c = with(json!({"eos_token_id": [7, 9], "pad_token_id": -1, "bos_token_id": null})).unwrap();
    assert_eq!((c.eos_token_ids, c.pad_token_id, c.bos_token_id), (vec![7, 9], None, None));
}

#[test]
fn rope_types_in_both_spellings() {
    for changes in [
        json!({"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 5e5}),
        json!({"rope_scaling": {"rope_type": "linear", "factor": 4}, "rope_theta": 500000}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
    ] {
        let c = with(changes).unwrap();
        assert_eq!((c.rope.theta, c.rope.scaling), (Some(5e5), RopeScaling::Linear { factor: 4.0 }));
    }
    let c = with(
        json!({"rope_scaling": {"type": "yarn", "factor": 4.0}, "original_max_position_embeddings": 99}),
    );
    assert!(matches!(
        c.unwrap().rope.scaling,
        RopeScaling::Yarn { original_max_position_embeddings: 99, beta_fast: 32.0, truncate: true, .. }
    ));
}

#[test]
fn refusals_name_what_was_found() {
    let error = with(json!({"model_type": "rwkv7"})).unwrap_err();
    assert!(error.to_string().contains("`rwkv7`"), "{error}");
    assert!(error.hint().unwrap().contains("llama, mistral"));
    for (changes, name) in [
        (json!({"hidden_act": "relu"}), "`relu`"),
        (json!({"rope_scaling": {"rope_type": "ntk", "factor": 2.0}}), "`ntk`"),
        (json!({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}), "low_freq_factor"),
        (json!({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}), "short_factor"),
        (json!({"layer_types": ["full_attention"]}), "`layer_types`"),
        (json!({"layer_types": ["full_attention", "chunked_attention"]}), "chunked_attention"),
        (json!({"hidden_size": 0}), "`hidden_size`"),
        (json!({"hidden_size": -3}), "`hidden_size`"),
        (json!({"hidden_size": 66}), "`head_dim`"),
        (json!({"num_key_value_heads": 3}), "`num_key_value_heads`"),
        (json!({"vocab_size": null}), "`vocab_size`"),
        (json!({"rms_norm_eps": "small"}), "`rms_norm_eps`"),
        (json!({"partial_rotary_factor": 1.5}), "`partial_rotary_factor`"),
        (json!({"rope_scaling": {"type": "none"}}), "`none`"),
        (json!({"rope_scaling": {"type": "su", "factor": 2.0}}), "`su`"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}),
            "`partial_rotary_factor`",
        ),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "`max_position_embeddings`"),
        (json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}), "`full_attention`"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "`sliding_window`"),
    ] {
        let message = refusal(changes);
        assert!(message.contains(name), "{message} does not name {name}");
    }
}

#[test]
fn a_refused_family_says_what_is_missing_and_which_one_is_nearest() {
    for (changes, piece, nearest) in [
        (
            json!({"model_type": "deepseek_v3", "kv_lora_rank": 512, "n_routed_experts": 256}),
            "MLA",
            "qwen3_moe",
        ),
        (json!({"model_type": "qwen4", "num_experts": 512}), "its own code", "qwen3_next"),
        (json!({"model_type": "lfm3"}), "its own code", "lfm2"),
        (json!({"model_type": "nemotron_h", "ssm_state_size": 128}), "its own code", "granitemoehybrid"),
        (json!({"model_type": "llava", "text_config": {"hidden_size": 8}}), "for pictures", "llama"),
        (
            json!({"model_type": "gemma3n", "hidden_size_per_layer_input": 256}),
            "for each layer",
            "gemma4_text",
        ),
        (json!({"model_type": "unheard", "sliding_window": 64}), "its own code", "mistral"),
    ] {
        let hint = with(changes).unwrap_err().hint().unwrap().to_string();
        let expected = format!("nearest supported family is `{nearest}`");
        assert!(hint.contains(piece) && hint.contains(&expected), "{hint}");
    }
}

#[test]
fn families_with_experts_are_known_as_such() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
    for folder in std::fs::read_dir(models).unwrap() {
        let config = read_config(&folder.unwrap().path().join("model/config.json")).unwrap();
        let has = architecture(&config).unwrap().experts.is_some();
        assert_eq!(missing::HAVE_EXPERTS.contains(&config.model_type.as_str()), has, "{}", config.model_type);
    }
}

/// Gemma 4 31B as it is published, and what of the family is not computed.
#[test]
fn gemma_4_has_other_heads_in_layers_without_a_window() {
    let large = |changes: Value| {
        let mut raw = json!({
            "model_type": "gemma4_text", "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 60,
            "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 256, "global_head_dim": 512,
            "num_global_key_value_heads": 4, "attention_k_eq_v": true, "hidden_size_per_layer_input": 0,
            "sliding_window": 1024, "final_logit_softcapping": 30.0, "vocab_size": 262_144
        });
        for (k, v) in changes.as_object().unwrap() {
            raw[k] = v.clone();
        }
        architecture(&config_from_json(Path::new("config.json"), raw).unwrap())
    };
    let a = large(json!({})).unwrap();
    let sizes = |i| (a.attention(i).kv_heads, a.attention(i).head_dim, a.attention(i).values);
    assert_eq!((sizes(0), sizes(5)), ((16, 256, Values::Projected), (4, 512, Values::Keys)));
    assert_eq!((a.windows[4], a.windows[5], a.windows[59]), (Some(1024), None, None));
    let rope = |i: usize| &a.ropes[a.rope_of_layer[i].unwrap()];
    assert_eq!((rope(0).theta, rope(0).dims, &rope(0).scaling), (1e4, 256, &RopeScaling::None));
    let quarter = RopeScaling::Proportional { factor: 1.0, share: 0.25 };
    assert_eq!((rope(5).theta, rope(5).dims, &rope(5).scaling), (1e6, 512, &quarter));
    let shared = large(json!({"num_kv_shared_layers": 12})).unwrap();
    assert_eq!(shared.attention(48).values, Values::Layer(46));
    assert_eq!(shared.attention(59).values, Values::Layer(47));
    assert!(shared.gives_keys(46) && shared.gives_keys(47) && !shared.gives_keys(45));
    for (changes, key) in [
        (json!({"hidden_size_per_layer_input": 256}), "hidden_size_per_layer_input"),
        (json!({"enable_moe_block": true}), "enable_moe_block"),
        (json!({"num_kv_shared_layers": 58}), "num_kv_shared_layers"),
        (json!({"num_kv_shared_layers": 61}), "num_kv_shared_layers"),
        (json!({"use_bidirectional_attention": "all"}), "use_bidirectional_attention"),
        (json!({"per_layer_config": {"5": {"intermediate_size": 8}}}), "per_layer_config"),
        (json!({"per_layer_config": {"5": {"head_dim": 7}}}), "head_dim"),
    ] {
        let error = large(changes).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}
