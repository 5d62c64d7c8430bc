//! Folders of weights quantized by bitsandbytes: read exactly, and written as the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use ferrotune::formats::Checkpoint;
use ferrotune::formats::quantized::bnb4;
use ferrotune::formats::safetensors::{SafeFile, write};
use ferrotune_kernels::Threads;
use ferrotune_kernels::quant::nf4::{FourBitKind, Scales, quantize};
use ferrotune_kernels::quant::{FourBit, Int8Rows, Weight, int8};
use serde_json::{Value, json};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(path)
}

fn decode_all(weight: &Weight) -> Vec<f32> {
    let mut out = vec![0.0; weight.rows() * weight.cols()];
    for (row, out) in out.chunks_mut(weight.cols()).enumerate() {
        weight.decode(row, 0, out);
    }
    out
}

#[test]
fn quantized_folders_decode_exactly() {
    for model in ["llama_nf4_dq", "llama_fp4"] {
        let c = Checkpoint::open(&golden(&format!("quant/{model}/model"))).unwrap();
        assert_eq!(c.names().len(), 21, "{model}: parts of quantized weights are not tensors of their own");
        let expected = SafeFile::open(&golden(&format!("quant/{model}/dequant_layer0.safetensors"))).unwrap();
        let mut seen = 0;
        for (name, _) in expected.iter() {
            let (shape, values) = expected.f32(name).unwrap();
            let weight = c.weight(name, shape[0], shape[1]).unwrap();
            assert!(weight.format::<FourBit>().is_some(), "{model}: {name}");
            assert_eq!(decode_all(&weight), values, "{model}: {name}");
            seen += 1;
        }
        assert_eq!(seen, 7);
        let head = c.weight("lm_head.weight", 320, 64).unwrap();
        assert!(head.dtype().is_some());
    }
}

#[test]
fn written_parts_are_the_same_bytes() {
    for (model, dtype) in
        [("llama_nf4_dq", "float32"), ("llama_fp4", "float32"), ("llama_nf4_dq_bf16", "bfloat16")]
    {
        let folder = golden(&format!("quant/{model}/model"));
        let c = Checkpoint::open(&folder).unwrap();
        let file = SafeFile::open(&folder.join("model.safetensors")).unwrap();
        let name = "model.layers.1.mlp.down_proj.weight";
        let weight = c.weight(name, 64, 160).unwrap();
        let bits = weight.format::<FourBit>().expect("4-bit");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.safetensors");
        write(&path, &bnb4::tensors(name, 64, 160, bits, dtype)).unwrap();
        let again = SafeFile::open(&path).unwrap();
        let names: Vec<&str> = file.iter().map(|(n, _)| n).filter(|n| n.starts_with(name)).collect();
        assert_eq!(again.iter().map(|(n, _)| n).collect::<Vec<_>>(), names);
        for name in names {
            let (old, new) = (file.get(name).unwrap(), again.get(name).unwrap());
            assert_eq!((old.dtype, &old.shape), (new.dtype, &new.shape), "{name}");
            assert_eq!(old.bytes.as_slice(), new.bytes.as_slice(), "{name}");
        }
        let raw = &c.config().raw["quantization_config"];
        let double = matches!(bits.scales(), Scales::Nested { .. });
        assert_eq!(raw, &bnb4::quantization_config(bits.kind(), double, dtype, &[]));
    }
}

#[test]
fn our_quantizer_makes_the_reference_folder() {
    let base = Checkpoint::open(&golden("models/llama3_rope/model")).unwrap();
    let reference = Checkpoint::open(&golden("quant/llama_nf4_dq/model")).unwrap();
    for (name, rows, cols) in
        [("mlp.down_proj", 64, 160), ("mlp.up_proj", 160, 64), ("self_attn.k_proj", 32, 64)]
    {
        let name = format!("model.layers.1.{name}.weight");
        let ours =
            quantize(&Threads::one(), &base.weight(&name, rows, cols).unwrap(), FourBitKind::Nf4, 64, true)
                .unwrap();
        let theirs = reference.weight(&name, rows, cols).unwrap();
        assert_eq!(decode_all(&ours), decode_all(&theirs), "{name}");
        assert_eq!(ours.nbytes(), theirs.nbytes());
    }
}

#[test]
fn damaged_parts_are_named() {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let dir = tempfile::tempdir().unwrap();
    let source = golden("quant/llama_nf4_dq/model");
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let refusal = |from: &str, to: &str, rows: usize| {
        assert_eq!(from.len(), to.len());
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("text to damage");
        let mut damaged = bytes.clone();
        damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(dir.path().join("model.safetensors"), damaged).unwrap();
        let c = Checkpoint::open(dir.path()).unwrap();
        c.weight(name, rows, 64).unwrap_err().to_string()
    };
    let message = refusal(&format!("{name}.quant_map"), &format!("{name}.quant_mop"), 64);
    assert!(message.contains(&format!("{name}.quant_map")) && message.contains("missing"), "{message}");
    let message = refusal("layers", "layers", 65);
    assert!(message.contains("[64,64]") && message.contains("[65, 64]"), "{message}");
    for (from, to, word) in [
        ("\"blocksize\": 64", "\"blocksize\": 65", "65"),
        ("\"blocksize\": 64", "\"blocksiz_\": 64", "blocksize"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\": 000", "JSON"),
        ("\"nested_blocksize\": 256", "\"nested_blocksize\":   0", "nested_blocksize"),
        ("\"nested_offset\"", "\"nested_offse_\"", "nested_offset"),
    ] {
        // All seven states of layer 0 come before that of another layer, so damage every one.
        let mut damaged = bytes.clone();
        for at in 0..damaged.len() - from.len() {
            if &damaged[at..at + from.len()] == from.as_bytes() {
                damaged[at..at + to.len()].copy_from_slice(to.as_bytes());
            }
        }
        fs::write(dir.path().join("model.safetensors"), damaged).unwrap();
        let message = Checkpoint::open(dir.path()).unwrap().weight(name, 64, 64).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(word), "{word}: {message}");
    }
}

#[test]
fn eight_bit_folders_are_read() {
    let c = Checkpoint::open(&golden("quant/llama_int8/model")).unwrap();
    assert_eq!(c.names().len(), 21);
    let folder = golden("models/llama3_rope/model");
    let base = Checkpoint::open(&folder).unwrap();
    let file = SafeFile::open(&folder.join("model.safetensors")).unwrap();
    let mut seen = 0;
    for (name, tensor) in file.iter().filter(|(name, _)| name.contains(".layers.")) {
        let [rows, cols] = tensor.shape[..] else { continue };
        let weight = c.weight(name, rows, cols).unwrap();
        let codes = weight.format::<Int8Rows>().expect("8-bit");
        let ours = int8::quantize(&Threads::one(), &base.weight(name, rows, cols).unwrap(), true).unwrap();
        let expected = ours.format::<Int8Rows>().expect("8-bit");
        assert_eq!((codes.codes(), codes.absmax()), (expected.codes(), expected.absmax()), "{name}");
        assert!(c.weight(name, rows + 1, cols).unwrap_err().to_string().contains("shape is"));
        seen += 1;
    }
    assert_eq!(seen, 14);
}

#[test]
fn other_quantized_folders_are_refused_by_name() {
    let source = golden("quant/llama_nf4_dq/model");
    let config = fs::read(source.join("config.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    fs::copy(source.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    for (about, word) in [
        (json!({"quant_method": "gptq", "bits": 4}), "`gptq`"),
        (json!({"quant_method": "bitsandbytes"}), "`bitsandbytes`"),
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_storage": "bfloat16"}),
            "`bfloat16`",
        ),
    ] {
        let mut changed: Value = serde_json::from_slice(&config).unwrap();
        changed["quantization_config"] = about;
        fs::write(dir.path().join("config.json"), changed.to_string()).unwrap();
        let error = Checkpoint::open(dir.path()).err().expect("a refusal").to_string();
        assert!(error.contains(word) && error.contains("quantization_config"), "{error}");
    }
}
