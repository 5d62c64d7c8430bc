//! `config`: every key as a run file, one key explained, a run file in full; the words of options.

use std::path::Path;

use super::helper::{Place, model};

#[test]
fn the_keys_that_are_printed_are_a_run_file() {
    let place = Place::with_run("lora");
    let all = place.run(&["config"]).ok().stdout;
    place.write("all.yaml", &all);
    let base = format!("model.base={}", model("llama3_rope").display());
    let set = ["--set", &base, "--set", "output.dir=out", "--set", "train.max_steps=1"];
    place.run(&[&["train", "all.yaml"], &set[..]].concat()).ok();
    // What a run writes is what is shown before it.
    let shown = place.run(&[&["config", "all.yaml"], &set[..]].concat()).ok().stdout;
    assert_eq!(shown.trim_end(), place.read("out/run.yaml").trim_end());
    assert!(shown.contains("lr: 0.0002") && shown.contains("max_steps: 1"), "{shown}");
    let json = place.run(&["config", "out/run.yaml", "--json"]).json();
    assert_eq!(json["train"]["max_steps"], 1);
}

#[test]
fn a_key_is_explained_under_any_of_its_names() {
    let place = Place::new();
    for name in ["train.lr", "lr", "learning_rate", "train.learning_rate"] {
        let text = place.run(&["config", name]).ok().stdout;
        assert!(text.starts_with("train.lr\n") && text.contains("learning_rate"), "{name}: {text}");
    }
    let text = place.run(&["config", "method.quant"]).ok().stdout;
    assert!(text.contains("method.quant.type") && text.contains("nf4: 4-bit normal float."), "{text}");
    place.run(&["config", "train.lrr"]).refused(&["train.lrr", "did you mean `train.lr`?"]);
    place.run(&["config", "learning_rat"]).refused(&["learning_rat", "did you mean `train.lr`?"]);
    place.run(&["config", "nowhere.yaml"]).refused(&["nowhere.yaml"]);
    place.write("bad.yaml", "model: { base: m }\ntrain:\n  epochs: none\n");
    place.run(&["config", "bad.yaml"]).refused(&["train.epochs", "\"none\"", "bad.yaml, line 3"]);
}

#[test]
fn the_documents_are_what_it_prints() {
    let place = Place::new();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (option, name) in [("--reference", "run-file.md"), ("--schema", "run.schema.json")] {
        let printed = place.run(&["config", option]).ok().stdout;
        assert_eq!(printed, std::fs::read_to_string(docs.join(name)).expect("a document"), "{name}");
    }
    assert_eq!(place.run(&["config", "train.lr", "--schema"]).code, Some(2));
}

#[test]
fn options_that_take_a_word_list_their_words() {
    let place = Place::new();
    for (command, words) in [
        ("quickstart", &["- qlora:", "Low-rank matrices beside quantized frozen weights"][..]),
        ("generate", &["- fp4:", "- bf16:", "avx512-bf16", "portable"]),
        ("merge", &["- stored:", "- f16:"]),
        ("quantize", &["- nf4:", "- fp4:"]),
        ("combine", &["magnitude_prune_svd", "- frequency:"]),
        ("preview", &["- never:"]),
    ] {
        let help = place.run(&[command, "--help"]).ok().stdout;
        for word in words {
            assert!(help.contains(word), "`{word}` is not in the help of {command}: {help}");
        }
    }
    // Aliases are taken as well.
    place.run(&["generate", "./nowhere", "--prompt", "x", "--precision", "bfloat16"]).refused(&["nowhere"]);
}
