//! The tour on a tiny model: the numbers that it promises, and what it leaves when it is refused.

use super::helper::{Place, model, names};

const KEYS: [&str; 13] = [
    "model",
    "source",
    "method",
    "exact_match_before",
    "exact_match_after",
    "eval_rows",
    "tokens_per_second",
    "peak_rss_bytes",
    "adapter_bytes",
    "model_bytes",
    "trainable_parameters",
    "total_parameters",
    "seconds",
];

#[test]
fn every_method_gives_its_numbers() {
    let base = model("llama3_rope").display().to_string();
    for (method, format) in [("qlora", "nf4"), ("lora", "f32"), ("full", "f32")] {
        let place = Place::new();
        let few = ["--facts", "20", "--questions", "3", "--output", "tour", "--offline", "--json"];
        let mut args = vec!["quickstart", "--model", &base, "--method", method];
        args.extend(few);
        let result = place.run(&args).json();
        for key in KEYS {
            assert!(!result[key].is_null(), "{key} is not in {result}");
        }
        assert_eq!((result["method"].as_str(), result["base_format"].as_str()), (Some(method), Some(format)));
        assert_eq!(result["eval_rows"], 3);
        assert_eq!(place.json("tour/quickstart.json"), result);
        // What it says next works.
        let file =
            ["eval", "tour", "--data", "tour/validation.jsonl", "--exact-match", "--max-new-tokens", "4"];
        place.run(&file).ok();
        place.run(&["preview", "tour/run.yaml"]).ok();
    }
}

/// Cut rows fit a short model; the questions are not cut.
#[test]
fn questions_that_do_not_fit_are_refused_before_training() {
    let place = Place::new();
    let base = model("llama3_rope").display().to_string();
    let mut args = vec!["quickstart", "--model", &base, "--offline", "--facts", "8", "--questions", "2"];
    args.extend(["--output", "tour", "--set", "data.truncation=keep_end", "--set", "data.max_length=60"]);
    place.run(&args).refused(&["data.max_length", "60", "the longest question", "set it to"]);
    assert!(!place.path("tour/adapter_model.safetensors").exists());
}

#[test]
fn a_refused_tour_leaves_nothing() {
    let place = Place::new();
    let base = model("llama3_rope").display().to_string();
    let run = |more: &[&str]| place.run(&[&["quickstart", "--model", &base, "--offline"][..], more].concat());
    run(&["--method", "lorra"]).misused(&["lorra", "'lora'"]);
    run(&["--quant", "zz"]).misused(&["zz", "fp4"]);
    run(&["--isa", "sse9"]).misused(&["sse9", "avx2"]);
    run(&["--set", "train.lrr=1"]).refused(&["train.lrr"]);
    assert!(names(&place.path(".")).is_empty());
    place.run(&["quickstart", "--model", "./nowhere", "--offline"]).refused(&["nowhere"]);
    assert!(names(&place.path(".")).is_empty());
}
