//! The way to split words that a GGUF file names, or does not.

use super::helper::{Place, golden, run_file};

/// A copy of the tiny Llama's file in which one text stands in the place of another of the same length.
fn edited(place: &Place, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(golden("gguf/llama3_rope/model.gguf")).expect("the model");
    let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("the text");
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(place.path("model.gguf"), bytes).expect("a file");
}

const KEY: &str = "tokenizer.ggml.pre";

#[test]
fn a_file_that_does_not_name_its_splitting_is_used_with_a_warning() {
    let place = Place::with_run("qlora");
    place.write("run.yaml", &run_file(std::path::Path::new("model.gguf"), "qlora"));
    let verbs = [
        &["eval", "model.gguf", "--data", "rows.jsonl"][..],
        &["generate", "model.gguf", "--prompt", "x", "--max-new-tokens", "2"],
        &["chat", "model.gguf"],
        &["preview", "run.yaml"],
        &["train", "run.yaml", "--set", "train.max_steps=1"],
    ];
    std::fs::copy(golden("gguf/llama3_rope/model.gguf"), place.path("model.gguf")).expect("a copy");
    let own = place.run(verbs[0]).ok();
    assert!(!own.stderr.contains("warning"), "{own:#?}");

    edited(&place, KEY, "tokenizer.ggml.xyz");
    for verb in verbs {
        let out = place.run(verb).ok();
        for word in ["warning: model.gguf", KEY, "default"] {
            assert!(out.stderr.contains(word), "{verb:?}: `{word}` is not in {out:#?}");
        }
    }
}

#[test]
fn a_splitting_that_is_not_known_is_refused_by_name() {
    let place = Place::with_run("qlora");
    let file = golden("gguf/llama3_rope/model.gguf");
    let text = String::from_utf8_lossy(&std::fs::read(file).expect("the model")).into_owned();
    let at = text.find(KEY).expect("the key");
    let name = ["llama-bpe", "smollm", "qwen2", "gpt-2"].into_iter().find(|n| text[at..at + 60].contains(n));
    let name = name.expect("a name after the key");
    let other = "x".repeat(name.len());
    edited(&place, name, &other);
    place.run(&["eval", "model.gguf", "--data", "rows.jsonl"]).refused(&["model.gguf", KEY, &other]);
}
