//! Model folders: everything a folder can be, and every way it can be broken.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::arch::config::RopeScaling;
use ferrotune::arch::families::read_config;
use ferrotune::formats::safetensors::{Dtype, OutTensor, SafeFile, Shards, write, write_model};
use ferrotune::formats::{Checkpoint, GenerationConfig};
use ferrotune_kernels::Threads;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

/// A copy of a golden model folder that a test may break.
fn copy_of(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(model)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn refusal(dir: &Path) -> String {
    Checkpoint::open(dir).err().expect("must be refused").to_string()
}

#[test]
fn opens_a_folder() {
    let c = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    let config = c.config();
    assert_eq!(config.model_type, "llama");
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_hidden_layers), (64, 160, 2));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 16));
    assert_eq!((config.vocab_size, config.norm_eps, config.rope.theta), (320, 1e-5, Some(1e4)));
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    assert_eq!(config.rope.scaling, llama3);
    assert_eq!(c.names().len(), 21);
    assert!(c.contains("lm_head.weight") && !c.contains("nothing"));

    let w = c.weight("model.layers.1.mlp.down_proj.weight", 64, 160).unwrap();
    let file = SafeFile::open(&golden("models/llama3_rope/model/model.safetensors")).unwrap();
    let (shape, values) = file.f32("model.layers.1.mlp.down_proj.weight").unwrap();
    assert_eq!(shape, [64, 160]);
    let mut row = vec![0.0; 160];
    w.decode(63, 0, &mut row);
    assert_eq!(row, values[63 * 160..]);
    assert_eq!(c.vector("model.norm.weight", 64).unwrap(), file.f32("model.norm.weight").unwrap().1);
    assert_eq!(file.metadata().get("format").map(String::as_str), Some("pt"));
}

#[test]
fn both_config_spellings_say_the_same() {
    for model in ["llama3_rope", "mistral"] {
        let mut new = read_config(&golden(&format!("models/{model}/model/config.json"))).unwrap();
        let mut old = read_config(&golden(&format!("models/{model}/config_v4.json"))).unwrap();
        assert_ne!(new.raw, old.raw);
        (new.raw, old.raw) = Default::default();
        (new.path, old.path) = Default::default();
        assert_eq!(new, old);
    }
}

#[test]
fn side_files() {
    let c = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    assert!(c.chat_template().unwrap().unwrap().contains("<|im_start|>assistant"));
    let specials = c.special_tokens().unwrap();
    assert_eq!(specials.get("bos_token").map(String::as_str), Some("<s>"));
    assert_eq!(specials.get("pad_token").map(String::as_str), Some("<pad>"));
    assert_eq!(c.eos_ids().unwrap(), [2]);
    assert_eq!(c.add_bos().unwrap(), Some(false));
    tokenizers::Tokenizer::from_bytes(c.tokenizer_json().unwrap()).unwrap();
    let names: Vec<String> = c.sidecars().unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"]
    );
}

#[test]
fn templates_and_tokens_in_all_their_forms() {
    let dir = copy_of("models/llama3_rope/model");
    let set = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let open = || Checkpoint::open(dir.path()).unwrap();
    set(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}],
            "eos_token": {"content": "</s>", "lstrip": false}, "unk_token": null}"#,
    );
    assert_eq!(open().chat_template().unwrap().as_deref(), Some("D"));
    let specials = open().special_tokens().unwrap();
    assert_eq!(specials.get("eos_token").map(String::as_str), Some("</s>"));
    assert_eq!(specials.get("bos_token").map(String::as_str), Some("<s>"), "from special_tokens_map.json");
    assert!(!specials.contains_key("unk_token"));
    set("chat_template.jinja", "J");
    assert_eq!(open().chat_template().unwrap().as_deref(), Some("J"));
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    set("tokenizer_config.json", "{}");
    assert_eq!(open().chat_template().unwrap(), None);
    set("chat_template.json", r#"{"chat_template": "C"}"#);
    assert_eq!(open().chat_template().unwrap().as_deref(), Some("C"));
    set("tokenizer_config.json", "{");
    let error = open().chat_template().unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json") && error.contains("JSON"), "{error}");

    set(
        "generation_config.json",
        r#"{"eos_token_id": [2, 4], "temperature": 0.6, "top_k": 50, "do_sample": true}"#,
    );
    assert_eq!(open().eos_ids().unwrap(), [2, 4]);
    let expected = GenerationConfig {
        do_sample: Some(true),
        temperature: Some(0.6),
        top_k: Some(50),
        eos_token_ids: vec![2, 4],
        ..Default::default()
    };
    assert_eq!(open().generation_config().unwrap(), expected);
    fs::remove_file(dir.path().join("generation_config.json")).unwrap();
    assert_eq!(open().eos_ids().unwrap(), [2], "from config.json");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(open().tokenizer_json().unwrap_err().to_string().contains("tokenizer.json: missing"));
}

#[test]
fn wrong_shapes_and_names_are_named() {
    let c = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    let error = c.weight("lm_head.weight", 320, 65).unwrap_err().to_string();
    assert!(
        error.contains("lm_head.weight") && error.contains("[320, 64]") && error.contains("[320, 65]"),
        "{error}"
    );
    assert!(c.vector("model.norm.weight", 65).is_err());
    let error = c.weight("model.layers.0.self_attn.q_prj.weight", 64, 64).unwrap_err();
    assert!(error.to_string().contains("q_prj.weight") && error.to_string().contains("missing"));
    assert!(error.hint().unwrap().contains("self_attn.q_proj.weight"));
}

#[test]
fn unused_tensors_are_listed() {
    let c = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    let mut consumed: BTreeSet<String> = c.names().into_iter().collect();
    assert!(c.unused(&consumed).is_empty());
    consumed.remove("lm_head.weight");
    assert_eq!(c.unused(&consumed), ["lm_head.weight"]);
}

#[test]
fn fingerprint_follows_content_not_place() {
    let original =
        Checkpoint::open(&golden("models/llama3_rope/model")).unwrap().fingerprint(&Threads::one()).unwrap();
    assert_eq!(original.len(), 64);
    let dir = copy_of("models/llama3_rope/model");
    assert_eq!(Checkpoint::open(dir.path()).unwrap().fingerprint(&Threads::one()).unwrap(), original);
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_ne!(Checkpoint::open(dir.path()).unwrap().fingerprint(&Threads::one()).unwrap(), original);
}

#[test]
fn shards_round_trip_and_their_faults() {
    let dir = copy_of("models/llama3_rope/model");
    let single = dir.path().join("model.safetensors");
    let whole = SafeFile::open(&single).unwrap();
    let tensors = || {
        let out = |t: &ferrotune::formats::safetensors::TensorRef| {
            let bytes = t.bytes.clone();
            OutTensor::lazy(t.dtype, &t.shape, move || bytes.as_slice().to_vec())
        };
        whole.iter().map(|(n, t)| (n.to_string(), out(t))).collect::<Vec<_>>()
    };
    write_model(dir.path(), tensors(), 150_000).unwrap();
    assert!(!single.exists(), "the one file would hide the shards");
    let shards = Shards::open(dir.path()).unwrap();
    assert!(shards.files().len() >= 4);
    for (name, tensor) in whole.iter() {
        let (_, again) = shards.get(name).unwrap();
        assert_eq!(again.bytes.as_slice(), tensor.bytes.as_slice(), "{name}");
        assert_eq!(again.shape, tensor.shape);
    }
    drop(shards);

    let index = dir.path().join("model.safetensors.index.json");
    let good = fs::read_to_string(&index).unwrap();
    let first = dir.path().join("model-00001-of-00005.safetensors");
    assert!(first.is_file(), "{good}");
    fs::write(&index, good.replacen("model-00001-of-00005", "model-00002-of-00005", 1)).unwrap();
    assert!(refusal(dir.path()).contains("though the index says it is here"));
    fs::write(&index, good.replacen("model-00001-of-00005", "../model-00001-of-00005", 1)).unwrap();
    assert!(refusal(dir.path()).contains("not a plain file name"));
    fs::write(&index, "{\"weight_map\": {}}").unwrap();
    assert!(refusal(dir.path()).contains("empty"));
    fs::write(&index, &good).unwrap();
    fs::remove_file(&first).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("model-00001-of-00005.safetensors") && message.contains("missing"), "{message}");
}

#[test]
fn written_file_is_the_original() {
    let path = golden("models/llama3_rope/model/model.safetensors");
    let file = SafeFile::open(&path).unwrap();
    let tensors: Vec<_> = file
        .iter()
        .map(|(n, t)| (n.to_string(), OutTensor::bytes(t.dtype, &t.shape, t.bytes.as_slice())))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.safetensors");
    write(&copy, &tensors).unwrap();
    assert_eq!(fs::read(&copy).unwrap(), fs::read(&path).unwrap());
    let values = [1.5f32, -2.0];
    write(&copy, &[("v".to_string(), OutTensor::f32(&[2], &values))]).unwrap();
    assert_eq!(SafeFile::open(&copy).unwrap().f32("v").unwrap(), (vec![2], values.to_vec()));
    write(&copy, &[("i".to_string(), OutTensor::bytes(Dtype::I32, &[1], &[0; 4]))]).unwrap();
    assert!(SafeFile::open(&copy).unwrap().f32("i").unwrap_err().to_string().contains("I32"));
}

#[test]
fn broken_folders_say_what_is_wrong() {
    let dir = copy_of("models/llama3_rope/model");
    let path = dir.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for (length, word) in
        [(0, "0 bytes found"), (7, "7 bytes found"), (100, "truncated"), (whole.len() - 1, "describes")]
    {
        fs::write(&path, &whole[..length]).unwrap();
        let message = refusal(dir.path());
        assert!(message.contains("model.safetensors") && message.contains(word), "{length}: {message}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(refusal(dir.path()).contains(&format!("{} bytes found", whole.len() + 1)));

    fs::remove_file(&path).unwrap();
    assert!(refusal(dir.path()).contains("model.safetensors"));
    fs::write(dir.path().join("x.gguf"), "").unwrap();
    assert!(Checkpoint::open(dir.path()).err().unwrap().hint().unwrap().contains("x.gguf"));
    // The architecture is refused first, even when there are no weights at all.
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    fs::write(dir.path().join("config.json"), config.replace("\"llama\"", "\"mamba\"")).unwrap();
    assert!(refusal(dir.path()).contains("`mamba`"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(refusal(dir.path()).contains("config.json"));
    assert!(Checkpoint::open(&dir.path().join("nowhere")).is_err());
}
