//! Tokens of large data are kept: the same run with what was kept, without, and with a damaged file; and it is resumed in
//! the middle.

use serde_json::json;

use super::helper::{Place, names};

/// Rows of token ids of more than the bytes from which they are kept: there is nothing to tokenize, so the test is short.
fn large(place: &Place) {
    let ids: Vec<u32> = (0..120).map(|i| 5 + i % 200).collect();
    // Blanks are bytes of the file too.
    let pad = " ".repeat(64 << 10);
    let row = |i: u32| {
        let mut ids = ids.clone();
        ids[0] = 5 + i % 300;
        ids[1] = 5 + i / 300;
        format!("{}{pad}\n", json!({"input_ids": ids}))
    };
    place.write("rows.jsonl", &(0..300).map(row).collect::<String>());
}

#[test]
fn a_run_is_the_same_with_what_was_kept_and_without() {
    let place = Place::with_run("lora");
    large(&place);
    let tokens = place.cache("tokens");
    let train = |dir: &str, more: &[&str]| {
        let dir = format!("output.dir={dir}");
        let base = ["train", "run.yaml", "--set", &dir, "--set", "data.eval=5%", "--set", "train.epochs=1"];
        place.run(&[&base[..], more].concat())
    };
    train("without", &["--set", "data.cache=false"]).ok();
    assert!(!tokens.exists() || names(&tokens).is_empty(), "nothing is kept where that is turned off");
    train("first", &[]).ok();
    let kept = names(&tokens);
    assert!(kept.len() == 1 && kept[0].ends_with(".tokens"), "{kept:?}");
    train("second", &[]).ok();
    assert_eq!(names(&tokens), kept);
    // Interrupted, it goes on with the same rows.
    train("stopped", &["--set", "train.max_steps=20"]).ok();
    place
        .run(&[
            "train",
            "run.yaml",
            "--set",
            "output.dir=stopped",
            "--set",
            "data.eval=5%",
            "--set",
            "train.epochs=1",
            "--resume",
            "--accept-changes",
        ])
        .ok();
    for run in ["first", "second"] {
        assert_eq!(place.losses(run), place.losses("without"));
        let adapter = |run: &str| place.bytes(&format!("{run}/adapter_model.safetensors"));
        assert!(adapter(run) == adapter("without"), "{run}");
    }
    assert_eq!(names(&tokens), kept, "another part of the same rows needs no other file");

    let listed = place.run(&["cache", "--json"]).json();
    assert_eq!(listed["tokens"][0]["rows"], 300);

    // A row that was damaged is an error when it is read; what is not whole is made again.
    let path = tokens.join(&kept[0]);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[400] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    train("damaged", &[]).refused(&["checksum", "cache --clear"]);
    std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
    train("cut", &[]).ok();
    assert_eq!(place.losses("cut"), place.losses("without"));
    assert!(std::fs::read(&path).unwrap() == whole);
    let freed = place.run(&["cache", "--clear", "--json"]).json()["freed_bytes"].as_u64().unwrap();
    assert_eq!(freed, whole.len() as u64);
    assert!(names(&tokens).is_empty());
}

#[test]
fn streaming_reads_what_the_steps_need() {
    let place = Place::with_run("lora");
    let row = |i: usize| format!("{}\n", json!({"text": format!("row number {i} of many rows")}));
    place.write("rows.jsonl", &(0..30_000).map(row).collect::<String>());
    let streaming = |more: &[&str]| {
        let base = ["preview", "run.yaml", "-n", "1", "--set", "data.streaming=true"];
        place.run(&[&base[..], more].concat())
    };
    let told = |more: &[&str]| streaming(&[&["--json"], more].concat()).json()["report"].clone();
    let report = told(&["--set", "train.max_steps=5", "--set", "data.eval=50%"]);
    // A part of 4096 rows has more than enough, and half of it is held out.
    assert_eq!(report["rows"], 2048);
    let more = told(&["--set", "train.max_steps=1000"]);
    assert_eq!(more["rows"], 8192);
    streaming(&[]).refused(&["data.streaming", "train.max_steps"]);
    let source = "data.sources=[{path: rows.jsonl}]";
    streaming(&["--set", "train.max_steps=5", "--set", source]).refused(&["data.streaming", "data.sources"]);
    // What follows is not even looked at.
    let rows = place.read("rows.jsonl") + "not a row\n";
    place.write("rows.jsonl", &rows);
    place.run(&["preview", "run.yaml"]).refused(&["rows.jsonl:30001"]);
    streaming(&["--set", "train.max_steps=5"]).ok();
}
