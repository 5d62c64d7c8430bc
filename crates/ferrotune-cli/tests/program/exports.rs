//! What stands in results beside the weights: the tokenizer that the run began with, and where answers end.

use serde_json::json;

use super::helper::{Place, golden, model, run_file};

#[cfg(unix)]
#[test]
fn results_have_the_tokenizer_that_the_run_began_with() {
    use std::time::{Duration, Instant};
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    let files =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
    let expected: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(base.join(f)).expect("a file")).collect();

    let mut run = place.start(&["train", "run.yaml", "--set", "train.epochs=100000"]);
    let end = Instant::now() + Duration::from_secs(60);
    while !place.path("out/metrics.jsonl").exists() {
        assert!(Instant::now() < end && run.try_wait().expect("the process").is_none(), "no step");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Another model is put in its place while it trains, without some of the files.
    std::fs::write(base.join("tokenizer.json"), "{}").expect("a file");
    std::fs::write(base.join("tokenizer_config.json"), "{}").expect("a file");
    std::fs::remove_file(base.join("special_tokens_map.json")).expect("a file");
    let sent = std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(run.wait().expect("the process").code(), Some(130));
    for (file, expected) in files[..3].iter().zip(&expected) {
        assert!(place.bytes(&format!("out/{file}")) == *expected, "{file} is not the one of the start");
    }
}

/// A run of a few steps on the tiny model of that name.
fn trained(kind: &str, base: &str, rows: Option<&str>) -> Place {
    let place = Place::with_run(kind);
    place.write("run.yaml", &run_file(&model(base), kind));
    if let Some(rows) = rows {
        place.write("rows.jsonl", rows);
    }
    place.run(&["train", "run.yaml", "--set", "train.max_steps=2"]).ok();
    place
}

#[test]
fn answers_end_where_the_chat_template_ended_them() {
    // `</s>` ends the base's texts, `<|im_end|>` the turns of its template.
    let place = trained("lora", "llama_tied", None);
    let own = model("llama_tied").join("generation_config.json");
    let own: serde_json::Value = serde_json::from_slice(&std::fs::read(own).expect("a file")).expect("JSON");
    let mut expected = own.clone();
    assert_eq!(own["eos_token_id"], 2);
    expected["eos_token_id"] = json!([2, 4]);
    assert_eq!(place.json("out/generation_config.json"), expected, "the other settings stay");
    let card = place.read("out/README.md");
    assert!(
        card.contains("Answers end with `<|im_end|>` (4).") && card.contains("from_pretrained"),
        "{card}"
    );
    let base = model("llama_tied").display().to_string();
    for (adapter, merged) in [("out", "merged"), ("out/checkpoints/step-2", "from-checkpoint")] {
        place.run(&["merge", adapter, "--base", &base, "--output", merged]).ok();
        assert_eq!(place.json(&format!("{merged}/generation_config.json")), expected, "{merged}");
        assert_eq!(place.json(&format!("{merged}/config.json"))["eos_token_id"], json!([2, 4]), "{merged}");
    }

    let place = trained("full", "llama_tied", None);
    assert_eq!(place.json("out/generation_config.json"), expected);
    assert_eq!(place.json("out/config.json")["eos_token_id"], json!([2, 4]));

    // What no row taught is not claimed.
    let texts: String =
        (0..12).map(|i| format!("{}\n", json!({"text": format!("{i} and {}", i + 1)}))).collect();
    for kind in ["lora", "full"] {
        let place = trained(kind, "llama_tied", Some(&texts));
        assert_eq!(place.json("out/generation_config.json"), own);
        if kind == "lora" {
            place.run(&["merge", "out", "--output", "merged"]).ok();
            assert_eq!(place.json("merged/generation_config.json"), own);
            assert_eq!(place.json("merged/config.json")["eos_token_id"], 2);
        }
    }
}

#[test]
fn a_base_without_settings_of_generation_keeps_its_own_end_too() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama_tied"), "base");
    std::fs::remove_file(base.join("generation_config.json")).expect("a file");
    place.write("run.yaml", &run_file(&base, "lora"));
    place.run(&["train", "run.yaml", "--set", "train.max_steps=2"]).ok();
    place.run(&["merge", "out", "--output", "merged"]).ok();
    let expected = json!({"bos_token_id": 1, "eos_token_id": [2, 4], "pad_token_id": 0});
    assert_eq!(place.json("merged/generation_config.json"), expected);
    assert_eq!(place.json("merged/config.json")["eos_token_id"], json!([2, 4]));
}

#[test]
fn folders_made_from_a_gguf_file_stop_too() {
    for kind in ["qlora", "full"] {
        let place = Place::with_run(kind);
        place.write("run.yaml", &run_file(&golden("gguf/llama3_rope/model.gguf"), kind));
        place.run(&["train", "run.yaml", "--set", "train.max_steps=2"]).ok();
        let folder = match kind {
            "full" => "out",
            _ => {
                place.run(&["merge", "out", "--output", "merged"]).ok();
                "merged"
            }
        };
        let ends = &place.json(&format!("{folder}/generation_config.json"))["eos_token_id"];
        assert_eq!(*ends, json!([2, 4]), "{kind}");
        assert_eq!(place.json(&format!("{folder}/config.json"))["eos_token_id"], json!([2, 4]), "{kind}");
    }
}
