//! The cache of quantized bases through the binary: the same runs with it, without it and with a damaged one.

use super::helper::{Place, chats, model, names};

/// A place with a qlora run on NF4, whose result folder is the option.
fn train(place: &Place, dir: &str, more: &[&str]) -> String {
    let dir = format!("output.dir={dir}");
    let args = ["train", "run.yaml", "--set", "method.quant.type=nf4", "--set", &dir];
    place.run(&[&args[..], more].concat()).ok().stderr
}

#[test]
fn a_run_is_the_same_with_and_without() {
    let place = Place::with_run("qlora");
    train(&place, "without", &["--set", "model.cache=false"]);
    assert!(!place.bases().exists(), "nothing is kept where that is turned off");
    train(&place, "first", &[]);
    let kept = names(&place.bases());
    assert!(kept.len() == 1 && kept[0].ends_with(".safetensors"), "{kept:?}");
    train(&place, "second", &[]);
    assert_eq!(names(&place.bases()), kept);
    for run in ["first", "second"] {
        assert_eq!(place.losses(run), place.losses("without"));
        let adapter = |run: &str| place.bytes(&format!("{run}/adapter_model.safetensors"));
        assert!(adapter(run) == adapter("without"), "{run}");
    }
    assert!(place.read("without/run.yaml").contains("cache: false"));
    assert!(!place.read("first/run.yaml").contains("cache:"));

    // Every verb that holds the base in 4 bits finds it.
    place.run(&["eval", "first", "--data", "rows.jsonl"]).ok();
    place.run(&["generate", "first", "--prompt", "hello", "--max-new-tokens", "2"]).ok();
    place.run(&["merge", "first", "--output", "merged"]).ok();
    place.run_with(&["chat", "first", "--max-new-tokens", "2"], "hello\n/quit\n").ok();
    assert_eq!(names(&place.bases()), kept);

    std::fs::write(place.bases().join(&kept[0]), "x").unwrap();
    let told = train(&place, "third", &[]);
    assert!(told.contains("warning: the quantized base is made again"), "{told}");
    assert_eq!(place.losses("third"), place.losses("without"));
    assert!(!train(&place, "fourth", &[]).contains("warning: the quantized"));
}

#[test]
fn the_verb_lists_and_clears() {
    let place = Place::new();
    place.write("rows.jsonl", &chats(4));
    assert_eq!(place.run(&["cache", "--json"]).json()["bytes"], 0);
    let base = model("mistral").display().to_string();
    let eval = ["eval", &base, "--data", "rows.jsonl", "--quant"];
    place.run(&[&eval[..], &["int8", "--no-cache"]].concat()).ok();
    assert!(!place.bases().exists());
    place.run(&[&eval[..], &["int8"]].concat()).ok();
    place.run(&[&eval[..], &["fp4"]].concat()).ok();
    let listed = place.run(&["cache", "--json"]).json();
    let files = listed["files"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|f| f["base"] == base && f["bytes"].as_u64().unwrap() > 50_000), "{files:?}");
    let told = place.run(&["cache"]).ok().stderr;
    assert!(
        told.contains("int8") && told.contains("fp4, blocks of 64") && told.contains("in 2 files"),
        "{told}"
    );
    assert_eq!(place.run(&["cache", "--clear", "--json"]).json()["freed_bytes"], listed["bytes"]);
    assert_eq!(names(&place.bases()), [""; 0]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_told_and_the_work_goes_on() {
    let place = Place::new();
    place.write("rows.jsonl", &chats(4));
    let base = model("llama3_rope").display().to_string();
    let args = ["eval", &base, "--data", "rows.jsonl", "--quant", "nf4", "--json"];
    let out = super::faults::limited(&place, 40, &args);
    assert!(out.stderr.contains("the quantized base is not kept"), "{out:#?}");
    assert_eq!(names(&place.bases()), [""; 0]);
    assert_eq!(out.json(), place.run(&args).json());
    assert_eq!(names(&place.bases()).len(), 1);
}
