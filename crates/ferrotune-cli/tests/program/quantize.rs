//! `quantize` through the binary: the bytes of transformers and bitsandbytes, a base that runs, what is refused.

use std::path::Path;

use safetensors::SafeTensors;

use super::helper::{Place, chats, golden, model};

/// Names of the tensors whose type, shape or bytes differ; `-0` of FP4 is the same as 0.
fn differing(found: &Path, expected: &Path, fp4: bool) -> Vec<String> {
    let (found, expected) = (std::fs::read(found).unwrap(), std::fs::read(expected).unwrap());
    let (found, expected) =
        (SafeTensors::deserialize(&found).unwrap(), SafeTensors::deserialize(&expected).unwrap());
    let mut names = [found.names(), expected.names()].concat();
    names.sort_unstable();
    names.dedup();
    let zero = |n: u8| if fp4 && n == 8 { 0 } else { n };
    let same = |name: &str| {
        let (Ok(f), Ok(e)) = (found.tensor(name), expected.tensor(name)) else { return false };
        let packed = f.shape().get(1) == Some(&1);
        let plain = |b: &u8| if packed { zero(b >> 4) << 4 | zero(b & 15) } else { *b };
        f.dtype() == e.dtype()
            && f.shape() == e.shape()
            && f.data().iter().map(plain).eq(e.data().iter().map(plain))
    };
    names.into_iter().filter(|n| !same(n)).map(str::to_string).collect()
}

#[test]
fn folders_are_those_of_transformers() {
    let place = Place::new();
    let base = model("llama3_rope").display().to_string();
    for (name, options) in [
        ("llama_nf4_dq", &[][..]),
        ("llama_nf4_dq_bf16", &["--dtype", "bf16"]),
        ("llama_fp4", &["--type", "fp4", "--no-double"]),
    ] {
        let made = place.run(&[&["quantize", &base, "-o", name, "--json"][..], options].concat()).json();
        assert_eq!(made["linears"], 14);
        let expected = golden(&format!("quant/{name}/model"));
        let (ours, theirs) =
            (place.path(&format!("{name}/model.safetensors")), expected.join("model.safetensors"));
        assert_eq!(differing(&ours, &theirs, name == "llama_fp4"), [""; 0], "{name}");
        if name != "llama_fp4" {
            assert!(
                std::fs::read(&ours).unwrap() == std::fs::read(&theirs).unwrap(),
                "{name}: the whole file"
            );
        }
        let config: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(expected.join("config.json")).unwrap()).unwrap();
        assert_eq!(place.json(&format!("{name}/config.json")), config, "{name}");
        assert!(place.path(&format!("{name}/tokenizer.json")).is_file());
    }
}

#[test]
fn a_written_folder_is_a_base_like_the_one_quantized_in_memory() {
    let place = Place::with_run("qlora");
    place.write("rows.jsonl", &chats(8));
    let base = model("mistral").display().to_string();
    let loss = |args: &[&str]| {
        let args = [&["eval", "--data", "rows.jsonl", "--json", "--precision", "f32"], args].concat();
        place.run(&args).eval_loss()
    };
    let mut seen = vec![loss(&[&base])];
    for block in ["64", "256", "4096"] {
        place.run(&["quantize", &base, "--block", block, "-o", block]).ok();
        let found = loss(&[block]);
        assert!(seen.iter().all(|s| *s != found), "{seen:?} {found}");
        seen.push(found);
    }
    assert_eq!(seen[1], loss(&[&base, "--quant", "nf4"]));
    let int8 = loss(&[&base, "--quant", "int8"]);
    assert!((int8 - seen[0]).abs() < (seen[1] - seen[0]).abs(), "8 bits are nearer: {seen:?} {int8}");

    // Training beside the folder, and beside a base that is rounded to 8 bits while loading.
    let folder = place.path("256").display().to_string();
    place.run(&["train", "run.yaml", "--set", &format!("model.base={folder}")]).ok();
    let losses = place.losses("out");
    assert!(losses.last().unwrap().1 < losses[0].1, "{losses:?}");
    let receipt = place.json("out/receipt.json");
    assert_eq!(receipt["base"]["format"], "nf4");
    place.run(&["train", "run.yaml", "--set", "method.quant.type=int8", "--set", "output.dir=out8"]).ok();
    let losses = place.losses("out8");
    assert!(losses.last().unwrap().1 < losses[0].1, "{losses:?}");
    assert_eq!(place.json("out8/receipt.json")["base"]["format"], "int8");
}

#[test]
fn an_8_bit_folder_of_transformers_is_a_base() {
    let place = Place::with_run("qlora");
    let folder = place.copy_of(&golden("quant/llama_int8/model"), "eight");
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        std::fs::copy(model("llama3_rope").join(name), folder.join(name)).unwrap();
    }
    place.run(&["train", "run.yaml", "--set", "model.base=eight"]).ok();
    assert_eq!(place.json("out/receipt.json")["base"]["format"], "int8");
    // The same codes come from the floats, so the runs are the same to the last bit.
    place.run(&["train", "run.yaml", "--set", "method.quant.type=int8", "--set", "output.dir=own"]).ok();
    assert_eq!(place.losses("out"), place.losses("own"));
    let losses = place.losses("out");
    assert!(losses.last().unwrap().1 < losses[0].1, "{losses:?}");
}

#[test]
fn what_cannot_be_quantized_is_refused() {
    let place = Place::new();
    let base = model("llama3_rope").display().to_string();
    let refused = |model: &str, options: &[&str], words: &[&str]| {
        place.run(&[&["quantize", model, "-o", "out"][..], options].concat()).refused(words);
        assert!(!place.path("out").exists());
    };
    refused(&base, &["--block", "32"], &["--block", "32", "64"]);
    refused("./nowhere", &[], &["nowhere"]);
    let gguf = golden("gguf/llama_tied/model.gguf").display().to_string();
    refused(&gguf, &[], &["GGUF", "rounded already"]);
    place.run(&["quantize", &base, "-o", "four"]).ok();
    refused("four", &[], &["quantization_config", "quantized already"]);
    place.run(&["quantize", &base, "-o", "four"]).refused(&["four", "exists already"]);
    // Values beyond the range of f16 are named with their tensor.
    let large = place.copy_of(&model("llama3_rope"), "large");
    let name = "model.layers.1.mlp.up_proj.weight";
    super::helper::edit_tensors(&large.join("model.safetensors"), |tensors| {
        let t = tensors.iter_mut().find(|t| t.name == name).unwrap();
        t.data[..4].copy_from_slice(&1e6f32.to_le_bytes());
    });
    refused("large", &["--dtype", "f16"], &[name, "finite"]);
}
