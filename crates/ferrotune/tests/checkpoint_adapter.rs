//! Adapter folders against those that PEFT wrote.

use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::formats::adapter::{
    AdapterConfig, AdapterFile, CONFIG_FILE, Targets, TrainedBiases, WEIGHTS_FILE,
};
use ferrotune::formats::safetensors::{Dtype, OutTensor, write};
use ferrotune::lora::Init;
use serde_json::{Value, json};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_written_adapter_is_what_peft_wrote() {
    let folder = golden("models/llama3_rope/adapter");
    let adapter = AdapterFile::read(&folder).unwrap();
    assert_eq!(adapter.tensors.len(), 28);
    assert_eq!((adapter.config.lora.rank, adapter.config.lora.alpha), (8, 16.0));
    assert_eq!(adapter.get("model.layers.0.mlp.down_proj.lora_A.weight").unwrap().shape, [8, 160]);
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new/adapter");
    adapter.write(&out).unwrap();
    assert_eq!(fs::read(out.join(WEIGHTS_FILE)).unwrap(), fs::read(folder.join(WEIGHTS_FILE)).unwrap());
    assert_eq!(AdapterFile::read(&out).unwrap(), adapter);

    // Every key that we write is one of PEFT's, with its value, and the keys are sorted.
    let (ours, theirs) = (read_json(&out.join(CONFIG_FILE)), read_json(&folder.join(CONFIG_FILE)));
    let keys: Vec<&String> = ours.as_object().unwrap().keys().collect();
    assert!(keys.is_sorted());
    assert_eq!(keys.len(), 20);
    for key in keys {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    let text = fs::read_to_string(out.join(CONFIG_FILE)).unwrap();
    assert!(text.starts_with("{\n  \"alpha_pattern\": {},\n  \"auto_mapping\": null,\n"), "{text}");
    assert_eq!(ours["inference_mode"], true);
}

#[test]
fn variants_are_read_and_written_with_what_they_need() {
    let read = |name: &str| AdapterFile::read(&golden(&format!("variants/{name}/adapter"))).unwrap();
    assert!(read("dora").config.lora.dora);
    assert!(read("rslora").config.lora.rslora);
    assert!(read("lora_bias").config.lora.lora_bias);
    assert_eq!(read("bias_all").config.lora.bias, TrainedBiases::All);
    assert_eq!(read("modules_to_save").config.lora.modules_to_save, ["embed_tokens", "lm_head"]);
    assert_eq!(read("trainable_tokens").config.lora.trainable_tokens, [1, 2, 60, 61]);
    assert!(matches!(read("regex_target").config.lora.targets, Targets::Regex(_)));
    assert!(read("exclude_modules").config.lora.exclude.is_some());
    assert!(read("layers_to_transform").config.lora.layers_to_transform.is_some());
    let patterns = read("rank_alpha_pattern").config.lora;
    assert_eq!(
        patterns.rank_pattern,
        [("layers.1.mlp.down_proj".to_string(), 12), ("q_proj".to_string(), 4)]
    );
    assert_eq!(patterns.alpha_pattern[1], ("q_proj".to_string(), 32.0));
    assert_eq!(read("pissa").config.lora.init, Init::Kaiming);
    for entry in fs::read_dir(golden("variants")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (adapter, dir) = (read(&name), tempfile::tempdir().unwrap());
        adapter.write(dir.path()).unwrap();
        assert_eq!(AdapterFile::read(dir.path()).unwrap(), adapter, "{name}");
        let original = fs::read(golden(&format!("variants/{name}/adapter")).join(WEIGHTS_FILE)).unwrap();
        assert_eq!(fs::read(dir.path().join(WEIGHTS_FILE)).unwrap(), original, "{name}");
    }
}

#[test]
fn half_floats_and_old_magnitude_keys_are_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(CONFIG_FILE), r#"{"peft_type": "LORA", "r": 1}"#).unwrap();
    let one = half::bf16::from_f32(1.5).to_le_bytes();
    let two = half::f16::from_f32(-2.25).to_le_bytes();
    let key = |part: &str| format!("base_model.model.model.layers.0.mlp.up_proj.{part}");
    let tensors = [
        (key("lora_A.weight"), OutTensor::bytes(Dtype::BF16, &[1, 1], &one)),
        (key("lora_B.weight"), OutTensor::bytes(Dtype::F16, &[1, 1], &two)),
        (key("lora_magnitude_vector.weight"), OutTensor::bytes(Dtype::F16, &[1], &two)),
    ];
    write(&dir.path().join(WEIGHTS_FILE), &tensors).unwrap();
    let adapter = AdapterFile::read(dir.path()).unwrap();
    let value = |part: &str| adapter.get(&format!("model.layers.0.mlp.up_proj.{part}")).unwrap().values[0];
    assert_eq!((value("lora_A.weight"), value("lora_B.weight")), (1.5, -2.25));
    assert_eq!(value("lora_magnitude_vector"), -2.25);
    assert_eq!(adapter.config.lora.alpha, 8.0, "PEFT's default");
}

#[test]
fn unknown_keys_are_refused_unless_they_change_nothing() {
    let read = |changes: Value| {
        let mut config = read_json(&golden("models/llama3_rope/adapter").join(CONFIG_FILE));
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        AdapterConfig::from_json(Path::new(CONFIG_FILE), &config)
    };
    assert!(
        read(json!({"next_years_method": null, "use_other": false, "list": [], "map": {"on": false}}))
            .is_ok()
    );
    // PEFT sets the last one aside for linears.
    assert!(read(json!({"strength": 0.0, "kind": "none", "fan_in_fan_out": true})).is_ok());
    for (changes, name) in [
        (json!({"next_years_method": {"a": 1}}), "next_years_method"),
        (json!({"use_qalora": true}), "use_qalora"),
        (json!({"next_years_strength": 0.5}), "next_years_strength"),
        (json!({"target_parameters": {"experts": 1}}), "target_parameters"),
        (json!({"layer_replication": [[0, 1]]}), "layer_replication"),
        (json!({"peft_type": "IA3"}), "IA3"),
        (json!({"task_type": "SEQ_CLS"}), "SEQ_CLS"),
        (json!({"bias": "some"}), "some"),
        (json!({"r": 0}), "`r`"),
        (json!({"lora_dropout": 1.5}), "lora_dropout"),
        (json!({"target_modules": 7}), "target_modules"),
        (json!({"rank_pattern": {"a": "b"}}), "rank_pattern"),
    ] {
        let message = read(changes).unwrap_err().to_string();
        assert!(message.contains(name), "{message} does not name {name}");
    }

    // How it began matters where the base was changed: that must be something that can be done again.
    let constants = |start: Value| read(json!({"init_lora_weights": start})).map(|c| c.lora.init);
    for (start, init) in [
        (json!(true), Init::Kaiming),
        (json!(false), Init::Kaiming),
        (json!("gaussian"), Init::Gaussian),
        (json!("eva"), Init::Kaiming),
        (json!("pissa"), Init::Pissa),
        (json!("olora"), Init::Olora),
        (json!("loftq"), Init::Loftq),
    ] {
        assert_eq!(constants(start.clone()).unwrap(), init, "{start}");
    }
    for start in ["pissa_niter_4", "corda", "lora_ga", "next_years_start"] {
        let error = constants(json!(start)).unwrap_err();
        assert!(error.to_string().contains(start), "{error}");
        assert!(error.hint().unwrap().contains("path_initial_model_for_weight_conversion"));
    }
}

#[test]
fn weights_that_do_not_pair_up_are_refused() {
    let source = AdapterFile::read(&golden("models/llama3_rope/adapter")).unwrap();
    let refusal = |change: fn(&mut AdapterFile)| {
        let (mut adapter, dir) = (source.clone(), tempfile::tempdir().unwrap());
        change(&mut adapter);
        adapter.write(dir.path()).unwrap();
        AdapterFile::read(dir.path()).unwrap_err().to_string()
    };
    let message = refusal(|a| drop(a.tensors.remove(1)));
    assert!(message.contains("down_proj.lora_A.weight") && message.contains("missing"), "{message}");
    let message = refusal(|a| {
        a.tensors[0].shape = vec![4, 160];
        a.tensors[0].values.truncate(640);
    });
    assert!(message.contains("ranks differ"), "{message}");

    let dir = tempfile::tempdir().unwrap();
    source.write(dir.path()).unwrap();
    write(&dir.path().join(WEIGHTS_FILE), &[("model.x".into(), OutTensor::f32(&[1], &[0.0]))]).unwrap();
    assert!(AdapterFile::read(dir.path()).unwrap_err().to_string().contains("base_model.model."));
    fs::remove_file(dir.path().join(WEIGHTS_FILE)).unwrap();
    fs::write(dir.path().join("adapter_model.bin"), "").unwrap();
    assert!(AdapterFile::read(dir.path()).unwrap_err().hint().unwrap().contains(".bin"));
}
