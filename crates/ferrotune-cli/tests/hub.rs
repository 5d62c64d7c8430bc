//! A model by its hub id, through the program.

#[path = "../../ferrotune-hub/tests/server/mod.rs"]
mod server;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use server::{Hub, HubTricks, nowhere};

const ID: &str = "acme/tiny-llama";

fn hub() -> Hub {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model");
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let files: BTreeMap<_, _> = entries
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&p).unwrap()))
        .collect();
    Hub::start(ID, files, HubTricks::default())
}

/// Trains one step from the hub id in `dir`, whose `hf` folder is the cache.
fn train(dir: &Path, endpoint: &str, output: &str, options: &[&str]) -> Output {
    fs::write(
        dir.join("data.jsonl"),
        "{\"input_ids\": [3, 5, 7, 9, 11, 4], \"labels\": [-100, 5, 7, 9, 11, 4]}\n",
    )
    .unwrap();
    let run = format!(
        "model: {{ base: {ID} }}\nmethod: {{ kind: lora, rank: 2 }}\n\
         data: {{ train: data.jsonl, format: tokens }}\ntrain: {{ max_steps: 1, precision: f32, threads: 1 }}\n\
         output: {{ dir: {output} }}\n"
    );
    fs::write(dir.join("run.yaml"), run).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args(["train", "run.yaml"])
        .args(options)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("HF_HOME", dir.join("hf"))
        .env("HF_ENDPOINT", endpoint)
        .output()
        .unwrap()
}

#[test]
fn a_run_begins_with_a_hub_id() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub();
    let output = train(dir.path(), &hub.server.url, "one", &["--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let events: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("events are JSON lines")).collect();
    assert!(events.iter().any(|e| e["event"] == "downloaded" && e["file"] == "model.safetensors"), "{said}");
    let adapter = fs::read(dir.path().join("one/checkpoints/step-1/adapter_config.json")).unwrap();
    let adapter: serde_json::Value = serde_json::from_slice(&adapter).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], ID);

    // From the cache, without the hub.
    let asked = hub.server.asked().len();
    let output = train(dir.path(), &nowhere(), "two", &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = train(dir.path(), &hub.server.url, "three", &["--offline"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(hub.server.asked().len(), asked);
    let bytes = |run: &str| {
        fs::read(dir.path().join(run).join("checkpoints/step-1/adapter_model.safetensors")).unwrap()
    };
    assert_eq!(bytes("one"), bytes("two"));
}

#[test]
fn errors_name_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    let hub = hub();
    let output = train(dir.path(), &hub.server.url, "one", &["--offline"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(ID) && said.contains("--offline") && said.contains("no file or folder"), "{said}");
    assert!(hub.server.asked().is_empty());
    let output = train(dir.path(), &hub.server.url, "one", &["--set", "model.base=acme/other"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("acme/other") && said.contains("spelling"), "{said}");
    let output = train(dir.path(), &hub.server.url, "one", &["--set", "model.base=./no-such-folder"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("./no-such-folder") && said.contains("owner/name"), "{said}");
}
