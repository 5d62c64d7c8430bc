//! Adapters of MLX-LM: the PEFT adapter that computes the same, or a refusal by name.

use std::path::Path;

use ferrotune::Error;
use ferrotune::formats::adapter::{AdapterFile, Targets};
use ferrotune::formats::mlx;
use ferrotune::formats::safetensors::{OutTensor, write};
use serde_json::{Value, json};

fn golden(name: &str) -> AdapterFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name);
    AdapterFile::read(&path).unwrap()
}

/// A tensor of an MLX file.
type Parts = Vec<(String, Vec<usize>, Vec<f32>)>;

/// The tensors of a PEFT adapter as MLX-LM holds them.
fn parts(peft: &AdapterFile) -> Parts {
    let turn = |(t, name): (&ferrotune::formats::adapter::AdapterTensor, String)| {
        let [rows, cols] = t.shape[..] else { return (name, t.shape.clone(), t.values.clone()) };
        let values = (0..rows * cols).map(|i| t.values[i % rows * cols + i / rows]).collect();
        (name, vec![cols, rows], values)
    };
    let name = |n: &str| {
        n.replace("lora_A.weight", "lora_a")
            .replace("lora_B.weight", "lora_b")
            .replace("lora_magnitude_vector", "m")
    };
    peft.tensors.iter().map(|t| turn((t, name(&t.name)))).collect()
}

fn folder(config: &Value, parts: &Parts) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("adapter_config.json"), config.to_string()).unwrap();
    let tensors: Vec<_> = parts.iter().map(|(n, s, v)| (n.clone(), OutTensor::f32(s, v))).collect();
    write(&dir.path().join(mlx::WEIGHTS_FILE), &tensors).unwrap();
    dir
}

fn config(kind: &str) -> Value {
    json!({
        "model": "mlx-community/tiny-4bit", "fine_tune_type": kind, "num_layers": 2, "iters": 100,
        "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.1, "keys": ["self_attn.q_proj"]},
    })
}

#[test]
fn lora_and_dora_are_the_transposed_tensors_with_the_same_scale() {
    for (kind, name) in [("lora", "models/llama3_rope/adapter"), ("dora", "variants/dora/adapter")] {
        let peft = golden(name);
        let dir = folder(&config(kind), &parts(&peft));
        assert!(mlx::is_adapter(dir.path()));
        let found = AdapterFile::read(dir.path()).unwrap();
        assert_eq!(found.tensors, peft.tensors, "{kind}");
        let c = &found.config.lora;
        assert_eq!((c.rank, c.alpha, c.dropout, c.dora), (8, 16.0, 0.1, kind == "dora"));
        assert_eq!(found.config.base_model_name_or_path.as_deref(), Some("mlx-community/tiny-4bit"));
        let Targets::Names(paths) = &c.targets else { panic!("{:?}", c.targets) };
        assert!(paths.contains(&"model.layers.1.self_attn.q_proj".to_string()), "{paths:?}");
    }
}

#[track_caller]
fn refused(config: &Value, parts: &Parts, words: &[&str]) {
    let dir = folder(config, parts);
    let error: Error = AdapterFile::read(dir.path()).unwrap_err();
    let text = format!("{error} {}", error.hint().unwrap_or_default());
    words.iter().for_each(|w| assert!(text.contains(w), "`{w}` is not in: {text}"));
}

#[test]
fn what_would_compute_something_else_is_refused() {
    let whole = parts(&golden("models/llama3_rope/adapter"));
    let with = |key: &str, value: Value| {
        let mut c = config("lora");
        c["lora_parameters"][key] = value;
        c
    };
    refused(&config("full"), &whole, &["fine_tune_type", "full"]);
    refused(&with("scale", Value::Null), &whole, &["lora_parameters.scale"]);
    refused(&with("rank", json!(0)), &whole, &["lora_parameters.rank"]);
    refused(&with("rank", json!(4)), &whole, &["`rank`", "is 4", "lora_a"]);
    // Versions read `alpha` differently, unless it is the rank.
    refused(&with("alpha", json!(16)), &whole, &["`alpha` 16", "`scale` to 4"]);
    AdapterFile::read(folder(&with("alpha", json!(8)), &whole).path()).unwrap();
    refused(&json!({"num_layers": 2}), &whole, &["peft_type", "lora_parameters"]);

    let plain = config("lora");
    let add = |name: &str, shape: &[usize]| {
        let mut parts = whole.clone();
        parts.push((name.into(), shape.to_vec(), vec![0.0; shape.iter().product()]));
        parts
    };
    refused(&plain, &add("model.norm.weight", &[64]), &["model.norm.weight", "lora_a"]);
    refused(&plain, &add("model.layers.0.self_attn.q_proj.m", &[64]), &["q_proj.m"]);
    refused(&plain, &add("model.embed_tokens.lora_a", &[320, 8]), &["embed_tokens", "tied"]);
    refused(&plain, &add("model.layers.0.mlp.switch_mlp.lora_a", &[4, 8, 64]), &["switch_mlp", "experts"]);
    refused(&plain, &add("model.layers.0.other.lora_b", &[8, 64]), &["other.lora_a", "missing"]);
    refused(&plain, &Vec::new(), &["no branch"]);
}
