//! GGUF files against their golden weights, metadata and token ids.

use std::path::{Path, PathBuf};

use ferrotune::checkpoint::Checkpoint;
use ferrotune::checkpoint::safetensors::SafeFile;
use ferrotune::model::{ModelConfig, RopeScaling};
use ferrotune_kernels::quant::Storage;
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
    for (name, tensors) in [("llama_tied", 20), ("llama3_rope", 21)] {
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
                    quantized += matches!(weight.storage(), Storage::Gguf(..)) as usize;
                    let mut found = vec![0.0; values.len()];
                    weight.decode_flat(0, &mut found);
                    found
                }
            };
            assert_eq!(found, values, "{name}: {tensor}");
        }
        assert!(quantized >= 11, "{name}: {quantized} weights kept their blocks");
    }
}

#[test]
fn configuration_is_that_of_the_source_model() {
    for name in ["llama_tied", "llama3_rope"] {
        let supported = ferrotune::model::config::SUPPORTED;
        let source =
            ModelConfig::read(&golden(&format!("models/{name}/model/config.json")), supported).unwrap();
        let mut found = open(name).config().clone();
        if name == "llama3_rope" {
            let RopeScaling::Factors(factors) = &found.rope.scaling else {
                panic!("{:?}", found.rope.scaling)
            };
            assert_eq!(factors.len(), 8);
            assert!(factors[0] == 1.0 && factors[7] > 7.9 && factors[7] < 8.1, "{factors:?}");
            found.rope.scaling = source.rope.scaling.clone();
        }
        found.raw = source.raw.clone();
        assert_eq!(found, source);
    }
}

#[test]
fn other_architectures_are_refused() {
    let error = Checkpoint::open(&golden("gguf/qwen2/model.gguf")).err().unwrap();
    assert!(error.to_string().contains("`qwen2`"), "{error}");
    assert!(error.hint().unwrap().contains("llama"));
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
    assert_ne!(c.fingerprint(), folder.fingerprint());
    assert_eq!(c.fingerprint(), open("llama3_rope").fingerprint());

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
