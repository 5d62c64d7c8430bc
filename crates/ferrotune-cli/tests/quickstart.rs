//! The quickstart through the binary, on the model that it carries: a real run from before to after.

use std::process::Command;

use serde_json::Value;

#[test]
fn learns_the_task_with_the_built_in_model_and_no_network() {
    let dir = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_ferrotune"))
        .args([
            "--json",
            "--offline",
            "quickstart",
            "--method",
            "full",
            "--facts",
            "800",
            "--questions",
            "64",
        ])
        .env("FERROTUNE_CACHE", dir.path().join("cache"))
        .env("HF_HOME", dir.path().join("hub"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&run.stderr).to_string();
    assert!(run.status.success(), "{log}");
    let result: Value = serde_json::from_slice(&run.stdout).unwrap();
    for key in ["tokens_per_second", "peak_rss_bytes", "adapter_bytes", "model_bytes", "seconds"] {
        assert!(result[key].as_f64().is_some_and(|v| v > 0.0), "{key}: {result}");
    }
    assert_eq!(result["source"], "builtin", "{result}");
    assert_eq!(result["eval_rows"], 64);
    let share = |key: &str| result[key].as_f64().unwrap();
    assert!(share("exact_match_before") < 0.05, "{result}");
    assert!(share("exact_match_after") > share("exact_match_before") + 0.2, "{result}");
    for skipped in ["cache", "hub", "package index"] {
        assert!(log.contains(skipped), "why {skipped} was passed over: {log}");
    }
    let output = dir.path().join("runs/quickstart");
    for file in
        ["model.safetensors", "config.json", "tokenizer.json", "metrics.jsonl", "receipt.json", "README.md"]
    {
        assert!(output.join(file).is_file(), "{file}");
    }
}
