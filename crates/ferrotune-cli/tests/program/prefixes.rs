//! Shared beginnings through the whole program: what is learned stays, what is computed gets less.

use serde_json::{Value, json};

use super::helper::{Place, model, run_file};

/// Rows of tokens: a beginning that all share, one that some share, an own end; labels from behind the beginning on.
fn rows() -> String {
    let row = |i: u64| {
        let stretch = |seed: u64, n: u64| (0..n).map(move |t| 5 + (seed * 97 + t * t * 31 + 7 * t) % 300);
        let ids: Vec<u64> =
            stretch(0, 40).chain(stretch(1 + i % 2, 20)).chain(stretch(10 + i, 6 + i % 5)).collect();
        let label = |(at, id): (usize, &u64)| if at < 50 && at > 0 { -100 } else { *id as i64 };
        let labels: Vec<i64> = ids.iter().enumerate().map(label).collect();
        format!("{}\n", json!({"input_ids": ids, "labels": labels}))
    };
    (0..24).map(row).collect()
}

fn place(base: &str, kind: &str) -> Place {
    let place = Place::new();
    place.write("rows.jsonl", &rows());
    place.write("run.yaml", &run_file(&model(base), kind));
    place
}

/// Five steps into `dir`.
#[track_caller]
fn train(place: &Place, dir: &str, options: &[&str]) -> (Vec<Value>, Vec<Value>) {
    let dir_key = format!("output.dir={dir}");
    let mut args = vec!["train", "run.yaml", "--set", &dir_key, "--set", "train.max_steps=5"];
    args.extend(["--set", "data.format=tokens", "--set", "data.eval=25%", "--set", "train.lr=1e-3"]);
    args.extend(options);
    place.run(&args).ok();
    place.metrics(dir)
}

fn number(line: &Value, key: &str) -> f64 {
    line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}"))
}

#[test]
fn sharing_changes_what_is_computed_and_not_what_is_learned() {
    for (kind, base, more) in [
        ("lora", "mistral", ""),
        ("qlora", "llama3_rope", ""),
        ("full", "gemma2", ""),
        ("lora", "mixtral", "train.loss_normalization=labels"),
        ("lora", "llama3_rope", "train.micro_batch_tokens=120"),
        ("lora", "hunyuan_v1_dense", ""),
        ("full", "ministral3", ""),
        ("lora", "qwen2_moe", ""),
        ("qlora", "glm4", ""),
    ] {
        let place = place(base, kind);
        let mut options = vec!["--set", "data.share_prefixes=false"];
        let more = if more.is_empty() { vec![] } else { vec!["--set", more] };
        options.extend(&more);
        let (steps, evals) = train(&place, "plain", &options);
        let (shared, shared_evals) = train(&place, "shared", &more);
        assert_eq!((steps.len(), shared.len()), (5, 5));
        for (found, expected) in shared.iter().zip(&steps) {
            for key in ["step", "epoch", "tokens", "label_tokens", "lr"] {
                assert_eq!(found[key], expected[key], "{key}");
            }
            for key in ["loss", "grad_norm"] {
                let (found, expected) = (number(found, key), number(expected, key));
                assert!((found / expected - 1.0).abs() < 1e-5, "{kind} {key}: {found}, {expected}");
            }
            assert_eq!(expected["stored_tokens"], expected["tokens"]);
            assert!(2.0 * number(found, "stored_tokens") < number(found, "tokens"), "{found}");
        }
        assert_eq!((shared_evals.len(), evals.len()), (3, 3));
        for (found, expected) in shared_evals.iter().zip(&evals) {
            assert_eq!(found["eval_label_tokens"], expected["eval_label_tokens"]);
            let (found, expected) = (number(found, "eval_loss"), number(expected, "eval_loss"));
            assert!((found / expected - 1.0).abs() < 1e-5, "{kind}: {found}, {expected}");
        }
    }
}

#[test]
fn threads_and_a_pause_change_no_bit_of_a_run_that_shares() {
    let place = place("gemma2", "lora");
    let result = |dir: &str| (place.losses(dir), place.bytes(&format!("{dir}/adapter_model.safetensors")));
    train(&place, "one", &["--threads", "1"]);
    train(&place, "two", &["--threads", "2"]);
    assert!(result("two") == result("one"), "threads");
    // A run that stopped after three steps, and its continuation.
    let every = ["--set", "output.checkpoint_every=3"];
    train(&place, "paused", &every);
    for entry in std::fs::read_dir(place.path("paused/checkpoints")).unwrap().flatten() {
        if entry.file_name() == "step-5" {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    train(&place, "paused", &[&every[..], &["--resume"]].concat());
    assert!(result("paused") == result("one"), "resumed");
}

#[test]
fn a_run_says_what_it_shares_and_dropout_shares_nothing() {
    let place = place("llama3_rope", "lora");
    let args = ["train", "run.yaml", "--set", "data.format=tokens", "--set", "train.max_steps=2"];
    let run = |more: &[&str]| place.run(&[&args[..], more].concat()).ok().stderr;
    let said = run(&[]);
    let line = said.lines().find(|l| l.starts_with("shared beginnings: ")).unwrap_or_default();
    assert!(line.contains("tokens of the rows are computed as"), "{said}");
    let total: f64 = place.metrics("out").0.iter().map(|step| number(step, "stored_tokens")).sum();
    assert!(line.contains(&format!("computed as {total} ")), "{line}, {total}");
    for (dir, option) in [("a", "method.dropout=0.1"), ("b", "data.packing=false")] {
        let said = run(&["--set", option, "--set", &format!("output.dir={dir}")]);
        assert!(!said.contains("shared beginnings"), "{option}: {said}");
        assert!(place.metrics(dir).0.iter().all(|step| step["stored_tokens"] == step["tokens"]), "{option}");
    }
    // The held-out loss of the program's own command is that of rows one by one.
    let eval = |rows: &str, name: &str| {
        place.write(name, rows);
        let report = place.run(&["eval", "out", "--data", name, "--json", "--precision", "f32"]).json();
        (
            number(&report, "eval_loss") * number(&report, "eval_label_tokens"),
            number(&report, "eval_label_tokens"),
        )
    };
    let all = eval(&rows(), "all.jsonl");
    let one_by_one: Vec<(f64, f64)> = rows().lines().map(|row| eval(row, "one.jsonl")).collect();
    let (sum, labels) = one_by_one.iter().fold((0.0, 0.0), |(a, b), (c, d)| (a + c, b + d));
    assert!((all.0 / sum - 1.0).abs() < 1e-5 && all.1 == labels, "{all:?}, {sum}, {labels}");
}
