//! Configurations as their first publishers wrote them, and names of both generations.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::arch::config::{ModelConfig, RopeScaling};
use crate::arch::families::{architecture, config_from_json};

fn read(raw: Value) -> Result<ModelConfig> {
    config_from_json(Path::new("config.json"), raw)
}

/// Gemma 3 4B and 27B state little more than what differs from their class.
#[test]
fn absent_keys_are_those_of_the_class() {
    let c = read(json!({
        "model_type": "gemma3", "eos_token_id": [1, 106], "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024
        },
        "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"}
    }))
    .unwrap();
    let a = architecture(&c).unwrap();
    assert_eq!((a.vocab, a.hidden, a.ffn, a.layers), (262_208, 2560, 10_240, 34));
    assert_eq!((a.heads, a.kv_heads, a.head_dim, a.tied), (8, 4, 256, true));
    assert_eq!((a.windows[0], a.windows[5], a.ropes[0].theta), (Some(1024), None, 1e6));
    assert_eq!(a.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!(a.tree.embedding, "model.language_model.embed_tokens");
    assert_eq!(
        (&c.eos_token_ids[..], c.bos_token_id, c.float_type()),
        (&[1, 106][..], Some(2), Some("bfloat16"))
    );
    let large = read(json!({
        "model_type": "gemma3",
        "text_config": {
            "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32,
            "num_hidden_layers": 62, "num_key_value_heads": 16, "query_pre_attn_scalar": 168, "sliding_window": 1024
        }
    }));
    let a = architecture(&large.unwrap()).unwrap();
    assert_eq!((a.heads, a.kv_heads, a.score_scale), (32, 16, 168f32.powf(-0.5)));
}

#[test]
fn mistral_3_has_one_of_two_text_models() {
    let mut raw = json!({
        "model_type": "mistral3",
        "text_config": {
            "model_type": "mistral", "head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40,
            "rms_norm_eps": 1e-5, "rope_theta": 1e9, "sliding_window": null, "vocab_size": 131072
        }
    });
    let a = architecture(&read(raw.clone()).unwrap()).unwrap();
    assert_eq!((a.heads, a.kv_heads, a.windows[0], a.ropes[0].theta), (32, 8, None, 1e9));
    raw["text_config"].as_object_mut().unwrap().shift_remove("sliding_window");
    assert_eq!(
        architecture(&read(raw.clone()).unwrap()).unwrap().windows[0],
        Some(4096),
        "the class has one"
    );
    // The class ties the head; what the file says counts, at the top before the text part.
    assert!(architecture(&read(raw.clone()).unwrap()).unwrap().tied);
    raw["text_config"]["tie_word_embeddings"] = json!(false);
    assert!(!architecture(&read(raw.clone()).unwrap()).unwrap().tied);
    raw["tie_word_embeddings"] = json!(true);
    assert!(architecture(&read(raw.clone()).unwrap()).unwrap().tied);
    raw["text_config"]["model_type"] = json!("ministral3");
    let c = read(raw.clone()).unwrap();
    assert_eq!((c.model_type.as_str(), c.pad_token_id), ("ministral3", Some(11)));
    assert!(architecture(&c).unwrap().ropes[0].query_scale.is_some());
}

#[test]
fn the_text_of_qwen_2_5_may_stand_at_the_top() {
    let text = json!({
        "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 3, "vocab_size": 320,
        "num_key_value_heads": 2, "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 70,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 5e5
    });
    let nested =
        json!({"model_type": "qwen2_5_vl", "text_config": text, "vision_config": {"hidden_size": 9}});
    let mut flat = text;
    flat["model_type"] = json!("qwen2_5_vl");
    flat["vision_config"] = json!({"hidden_size": 9});
    let [nested, flat] = [nested, flat].map(|raw| architecture(&read(raw).unwrap()).unwrap());
    assert_eq!(nested, flat);
    assert_eq!((flat.norm_eps, flat.ropes[0].theta, flat.qkv_bias), (1e-5, 5e5, true));
    assert_eq!(flat.ropes[0].scaling, RopeScaling::None);
}

#[test]
fn every_wrapper_knows_its_text_models_and_names() {
    for wrapper in WRAPPERS {
        for text in wrapper.texts {
            assert!(crate::arch::families::find(text.family).is_some(), "{}", text.family);
        }
        let tree = &wrapper.tree;
        let inside = tree.in_layer(3, "mlp.up_proj.weight");
        let towers = tree.carried.iter().map(|module| format!("{module}.a.weight"));
        let names = ["lm_head.weight".to_string(), format!("{}.weight", tree.embedding), inside.clone()];
        for name in names.into_iter().chain(towers.clone()) {
            assert_eq!(tree.name(&name), name, "{}: a name of today stays", wrapper.model_type);
            assert_eq!(tree.name(&tree.older(&name)), name, "{}", wrapper.model_type);
        }
        assert!(towers.clone().all(|name| tree.carries(&name) && !tree.is_in_layer(&name)));
        assert!(tree.is_in_layer(&inside) && !tree.carries(&inside));
    }
    let older = |wrapper: &str, name: &str| find(wrapper).unwrap().tree.older(name);
    assert_eq!(older("gemma3", "lm_head.weight"), "language_model.lm_head.weight");
    assert_eq!(older("qwen2_5_vl", "model.language_model.norm.weight"), "model.norm.weight");
    assert_eq!(older("qwen2_5_vl", "model.visual.x"), "visual.x");
}
