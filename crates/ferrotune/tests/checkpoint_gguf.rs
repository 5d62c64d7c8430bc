//! GGUF files against their golden weights, metadata and token ids.

use std::path::{Path, PathBuf};

use ferrotune::arch::config::RopeScaling;
use ferrotune::arch::families::{architecture, config_from_json, read_config};
use ferrotune::formats::Checkpoint;
use ferrotune::formats::safetensors::SafeFile;
use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::GgufBlocks;
use serde_json::Value;
use tokenizers::Tokenizer;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden(&format!("gguf/{name}/model.gguf"))).unwrap()
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(path)).unwrap()).unwrap()
}

#[test]
fn weights_are_exact() {
    for (name, tensors, least) in [
        ("llama_tied", 20, 11),
        ("llama3_rope", 21, 11),
        ("qwen2", 27, 11),
        ("qwen3", 25, 9),
        ("phi3_long", 15, 5),
        ("starcoder2", 35, 7),
        // A norm for each of two query heads and one key head in each of two layers.
        ("stablelm_parallel", 28, 9),
        // Three matrices of each of six experts in each of two layers.
        ("qwen3moe", 57, 32),
        ("gpt-oss", 77, 32),
        ("lfm2", 29, 17),
    ] {
        let c = open(name);
        let expected = SafeFile::open(&golden(&format!("gguf/{name}/weights.safetensors"))).unwrap();
        let names: Vec<&str> = expected.iter().map(|(n, _)| n).collect();
        assert_eq!(c.names(), names, "{name}");
        assert_eq!(names.len(), tensors);
        let mut quantized = 0;
        for tensor in names {
            let (shape, values) = expected.f32(tensor).unwrap();
            let found = match shape[..] {
                [len] => c.vector(tensor, len).unwrap(),
                _ => {
                    let weight = c.weight(tensor, shape[0], shape[1]).unwrap();
                    quantized += weight.format::<GgufBlocks>().is_some() as usize;
                    let mut found = vec![0.0; values.len()];
                    weight.decode_flat(0, &mut found);
                    found
                }
            };
            assert_eq!(found, values, "{name}: {tensor}");
        }
        assert!(quantized >= least, "{name}: {quantized} weights kept their blocks");
    }
}

#[test]
fn configuration_is_that_of_the_source_model() {
    for name in ["llama_tied", "llama3_rope"] {
        let source = read_config(&golden(&format!("models/{name}/model/config.json"))).unwrap();
        let mut found = open(name).config().clone();
        if name == "llama3_rope" {
            let RopeScaling::Factors(factors) = &found.rope.scaling else {
                panic!("{:?}", found.rope.scaling)
            };
            assert_eq!(factors.len(), 8);
            assert!(factors[0] == 1.0 && factors[7] > 7.9 && factors[7] < 8.1, "{factors:?}");
            found.rope.scaling = source.rope.scaling.clone();
        }
        (found.raw, found.path) = (source.raw.clone(), source.path.clone());
        assert_eq!(found, source);
    }
}

/// Whatever a folder's configuration and that of a file state in other ways, the network is the same.
#[test]
fn networks_are_those_of_the_source_models() {
    for (name, source) in [
        ("qwen2", "qwen2"),
        ("phi3_short", "phi3_short"),
        ("olmo2", "olmo2"),
        ("granite", "granite"),
        ("stablelm", "stablelm"),
        ("stablelm_parallel", "stablelm_parallel"),
        ("starcoder2", "starcoder2"),
        ("mixtral", "mixtral"),
        ("minimax-m2", "minimax_m2"),
        ("olmo3", "olmo3"),
        ("seed_oss", "seed_oss"),
        ("exaone4", "exaone4"),
        ("glm4", "glm4"),
        ("mistral3", "ministral3"),
    ] {
        let folder = Checkpoint::open(&golden(&format!("models/{source}/model"))).unwrap();
        let found = architecture(open(name).config()).unwrap();
        assert_eq!(found, architecture(folder.config()).unwrap(), "{name}");
    }
    let folders = std::fs::read_dir(golden("gguf")).unwrap().map(|entry| entry.unwrap());
    let folders: Vec<_> = folders.filter(|entry| entry.path().is_dir()).collect();
    assert!(folders.len() >= 29, "{}", folders.len());
    for name in folders.iter().map(|folder| folder.file_name().into_string().unwrap()) {
        let name = name.as_str();
        let c = open(name);
        let config = c.config();
        // What is written into the folder of a merged model.
        let again = config_from_json(&config.path, config.raw.clone()).unwrap();
        assert_eq!(architecture(&again).unwrap(), architecture(config).unwrap(), "{name}");
        for key in ["rope_theta", "num_key_value_heads", "head_dim"] {
            assert!(config.raw[key].is_number(), "{name}: {key}");
        }
    }
    // These were made from changed configurations; what a file says in its own way is looked at.
    let gemma3 = architecture(open("gemma3").config()).unwrap();
    assert_eq!(gemma3.windows, [Some(8), None]);
    assert_eq!(gemma3.ropes[0].scaling, RopeScaling::Linear { factor: 8.0 });
    assert_eq!((gemma3.ropes[1].theta, &gemma3.ropes[1].scaling), (10_000.0, &RopeScaling::None));
    let gemma2 = architecture(open("gemma2").config()).unwrap();
    assert_eq!((gemma2.score_cap, gemma2.logits.cap), (Some(8.0), Some(6.0)));
    assert_eq!(gemma2.windows, [Some(8), None]);
    let smollm3 = architecture(open("smollm3").config()).unwrap();
    assert_eq!(smollm3.rope_of_layer, [Some(0), Some(0), Some(0), None]);
}

#[test]
fn norms_of_gemma_are_without_the_one_that_the_converter_added() {
    for name in ["gemma2", "gemma3"] {
        let c = open(name);
        let expected = SafeFile::open(&golden(&format!("gguf/{name}/weights.safetensors"))).unwrap();
        let norms: Vec<&str> = expected.iter().map(|(n, _)| n).filter(|n| n.contains("norm")).collect();
        assert!(norms.len() >= 9);
        for norm in norms {
            let (shape, values) = expected.f32(norm).unwrap();
            assert_eq!(c.vector(norm, shape[0]).unwrap(), values, "{name}: {norm}");
            assert!(values.iter().all(|v| v.abs() < 0.5), "{name}: {norm} is still near one");
        }
    }
}

#[test]
fn tokenizer_gives_the_golden_ids() {
    let cases = json("sft/tokenizer.json");
    for name in ["llama_tied", "llama3_rope"] {
        let tokenizer = Tokenizer::from_bytes(open(name).tokenizer_json().unwrap()).unwrap();
        let cases = cases["cases"].as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let encoding = tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap();
            let ids: Vec<u64> =
                case["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
            assert_eq!(
                encoding.get_ids().iter().map(|&id| id as u64).collect::<Vec<_>>(),
                ids,
                "{}",
                case["text"]
            );
        }
    }
}

#[test]
fn side_information() {
    let c = open("llama3_rope");
    let folder = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    assert_eq!(c.chat_template().unwrap(), folder.chat_template().unwrap());
    assert_eq!(c.special_tokens().unwrap(), folder.special_tokens().unwrap());
    assert_eq!(c.eos_ids().unwrap(), [2]);
    assert_eq!(c.add_bos().unwrap(), Some(false));
    assert_ne!(c.fingerprint(&Threads::one()).unwrap(), folder.fingerprint(&Threads::one()).unwrap());
    assert_eq!(
        c.fingerprint(&Threads::one()).unwrap(),
        open("llama3_rope").fingerprint(&Threads::one()).unwrap()
    );

    // The files made for a merged folder are read back as what they came from.
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in c.sidecars().unwrap() {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    std::fs::write(dir.path().join("config.json"), folder.config().raw.to_string()).unwrap();
    std::fs::copy(golden("models/llama3_rope/model/model.safetensors"), dir.path().join("model.safetensors"))
        .unwrap();
    let merged = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(merged.chat_template().unwrap(), c.chat_template().unwrap());
    assert_eq!(merged.special_tokens().unwrap(), c.special_tokens().unwrap());
    assert_eq!(merged.eos_ids().unwrap(), c.eos_ids().unwrap());
    assert_eq!(merged.tokenizer_json().unwrap(), c.tokenizer_json().unwrap());
}

#[test]
fn wrong_shapes_are_named() {
    let error =
        open("llama_tied").weight("model.layers.0.mlp.up_proj.weight", 64, 160).unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_up.weight") && error.contains("[160, 64]"), "{error}");
    assert!(
        open("llama_tied").weight("lm_head.weight", 320, 64).unwrap_err().to_string().contains("missing")
    );
}

#[test]
fn sentence_piece_vocabulary_gives_the_reference_ids() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/gguf_spm");
    let c = Checkpoint::open(&folder.join("model.gguf")).unwrap();
    let tokenizer = Tokenizer::from_bytes(c.tokenizer_json().unwrap()).unwrap();
    let golden: Value = serde_json::from_slice(&std::fs::read(folder.join("ids.json")).unwrap()).unwrap();
    let ids =
        |v: &Value| v.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>();
    let mut plain = 0;
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, false).unwrap();
        assert_eq!(found.get_ids(), ids(&case["ids"]), "{text:?}");
        plain += (found.get_ids() == ids(&case["sentencepiece"])) as usize;
        assert_eq!(
            tokenizer.decode(found.get_ids(), false).unwrap(),
            case["decoded"].as_str().unwrap(),
            "{text:?}"
        );
        let with_bos = tokenizer.encode(text, true).unwrap();
        assert_eq!(with_bos.get_ids()[..1], [1]);
        assert_eq!(with_bos.get_ids()[1..], *found.get_ids());
    }
    assert!(plain >= 14, "{plain} texts are as SentencePiece itself splits them");
    assert_eq!(c.add_bos().unwrap(), Some(true));
}
