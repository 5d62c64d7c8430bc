//! Training from a run file to everything that can be done with its result.

use serde_json::Value;

use super::helper::{Place, golden, model, names, run_file};

const STEP_KEYS: [&str; 12] = [
    "epoch",
    "grad_norm",
    "label_tokens",
    "loss",
    "lr",
    "peak_rss_bytes",
    "rss_bytes",
    "seconds",
    "step",
    "stored_tokens",
    "tokens",
    "tokens_per_second",
];

fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = object.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Trains and asserts that the loss fell; gives the report of `--json`.
#[track_caller]
fn learns(place: &Place, args: &[&str]) -> Value {
    let mut all = vec!["train", "run.yaml", "--json"];
    all.extend(args);
    let report = place.run(&all).json();
    let losses = place.losses("out");
    assert_eq!(losses.len(), 20);
    assert_eq!(losses.iter().map(|l| l.0).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    let (first, last) = (losses[0].1, losses[19].1);
    assert!(last < 0.8 * first, "the loss went from {first} to {last}");
    assert_eq!(report["loss"].as_f64(), Some(last));
    report
}

fn eval(place: &Place, model: &str, more: &[&str]) -> f64 {
    let mut args = vec!["eval", model, "--data", "rows.jsonl", "--json", "--precision", "f32"];
    args.extend(more);
    place.run(&args).eval_loss()
}

#[test]
fn lora_from_run_file_to_merged_model() {
    let place = Place::with_run("lora");
    let report = learns(&place, &["--set", "data.eval=20%", "--set", "train.batch_rows=5"]);
    assert_eq!(report["steps"], 20);
    assert_eq!(report["interrupted"], false);

    // The run folder.
    let found = names(&place.path("out"));
    for name in [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "checkpoints",
        "metrics.jsonl",
        "receipt.json",
        "run.yaml",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert!(found.iter().any(|f| f == name), "{name} is not in {found:?}");
    }
    assert!(!found.iter().any(|f| f.ends_with(".tmp")), "{found:?}");
    assert_eq!(names(&place.path("out/checkpoints")), ["step-20"]);
    assert!(place.read("out/tokenizer_config.json").contains("chat_template"));
    let (steps, evals) = place.metrics("out");
    assert!(steps.iter().all(|l| keys(l) == STEP_KEYS), "{:?}", steps[0]);
    assert_eq!(evals.len(), 6, "before, and after each of five epochs");
    assert!(evals.iter().all(|l| keys(l) == ["eval_label_tokens", "eval_loss", "step"]));
    let receipt = place.json("out/receipt.json");
    for key in ["ferrotune", "base", "data", "seed", "method", "precision", "isa", "threads", "steps", "loss"]
    {
        assert!(!receipt[key].is_null(), "{key} is not in {receipt}");
    }
    assert!(receipt["planned_bytes"].as_u64() >= receipt["peak_rss_bytes"].as_u64(), "{receipt}");
    assert!(place.read("out/README.md").starts_with("---\nbase_model: "));

    // The written run file gives the same losses, and the same adapter.
    place.run(&["train", "out/run.yaml", "--set", "output.dir=again"]).ok();
    assert_eq!(place.losses("again"), place.losses("out"));
    let adapter = "adapter_model.safetensors";
    assert_eq!(place.bytes(&format!("again/{adapter}")), place.bytes(&format!("out/{adapter}")));

    // The result at work.
    let base = golden("models/llama3_rope/model").display().to_string();
    let (before, after) = (eval(&place, &base, &[]), eval(&place, "out", &[]));
    assert!(after < 0.9 * before, "{before} to {after}");
    assert_eq!(eval(&place, &base, &["--adapter", "out"]), after);
    place.run(&["merge", "out", "--output", "merged", "--dtype", "f32"]).ok();
    let merged = eval(&place, "merged", &[]);
    assert!((merged - after).abs() < 1e-4, "adapter {after}, merged {merged}");
    let ask = |more: &[&str]| {
        let mut args = vec!["generate"];
        args.extend(more);
        args.extend(["--prompt", "What comes after 3?", "--precision", "f32", "--max-new-tokens", "12"]);
        place.run(&args).ok().stdout
    };
    let answer = ask(&["out"]);
    assert!(!answer.trim().is_empty());
    assert_eq!(ask(&["out", "--merged"]), answer);
    assert_eq!(ask(&["merged"]), answer);
    let json = ask(&["out", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(json["text"].as_str().map(str::trim), Some(answer.trim()));

    chat_switches_adapters(&place, &base);
}

/// In one conversation: adapter, base, adapter again, a folder that is none. Every turn starts over, greedily.
fn chat_switches_adapters(place: &Place, base: &str) {
    let question = "What comes after 3?";
    let input = [
        question,
        "/reset",
        "/base",
        question,
        "/reset",
        "/adapter out",
        question,
        "/adapter nowhere",
        "/reset",
        question,
        "/nonsense",
        "/quit",
        question,
    ];
    let args = ["chat", "out", "--precision", "f32", "--max-new-tokens", "12", "--context", "256"];
    let out = place.run_with(&args, &input.join("\n")).ok();
    let answers: Vec<&str> = out.stdout.lines().collect();
    assert_eq!(answers.len(), 4, "{out:#?}");
    assert_ne!(answers[0], answers[1], "the base alone answers otherwise");
    assert_eq!(answers[0], answers[2], "and the adapter as before");
    assert_eq!(answers[0], answers[3], "a folder without an adapter changes nothing");
    assert!(out.stderr.contains("nowhere") && out.stderr.contains("hint: "), "{}", out.stderr);
    assert!(out.stderr.contains("/nonsense is not a command"), "{}", out.stderr);

    let alone =
        place.run_with(&["chat", base, "--precision", "f32", "--max-new-tokens", "12"], question).ok();
    assert_eq!(alone.stdout.lines().next(), Some(answers[1]));

    // A conversation that outgrows its context can start over.
    let short = ["chat", "out", "--max-new-tokens", "4", "--context", "40"];
    let out = place.run_with(&short, &format!("hi\n{}\n/reset\nhi", question.repeat(5))).ok();
    assert!(out.stderr.contains("--context allows 40") && out.stderr.contains("/reset"), "{out:#?}");
    let answers: Vec<&str> = out.stdout.lines().collect();
    assert!(answers.len() == 2 && answers[0] == answers[1], "{out:#?}");

    // Two turns: the second sees the first, with or without the cache.
    let two = |n: usize| format!("{question}\n{}{question}", "/base\n/adapter out\n".repeat(n));
    let cached = place.run_with(&args, &two(0)).ok().stdout;
    assert_eq!(place.run_with(&args, &two(1)).ok().stdout, cached, "a fresh cache gives the same answers");
}

#[test]
fn qlora_learns_over_nf4_and_over_the_blocks_of_a_gguf_file() {
    let place = Place::with_run("qlora");
    let report = learns(&place, &[]);
    let loss = eval(&place, "out", &[]);
    assert!(loss < report["loss"].as_f64().expect("a loss") + 0.2, "{loss}");
    assert_eq!(place.json("out/receipt.json")["base"]["format"], "nf4");
    place.run(&["merge", "out", "--output", "merged", "--dtype", "f32"]).ok();
    assert!((eval(&place, "merged", &[]) - loss).abs() < 1e-4, "merged onto what it was trained beside");

    let place = Place::new();
    place.write("rows.jsonl", &super::helper::chats(24));
    place.write("run.yaml", &run_file(&golden("gguf/llama3_rope/model.gguf"), "qlora"));
    learns(&place, &["--set", "method.quant.type=keep", "--set", "data.format=messages"]);
    assert_eq!(place.json("out/receipt.json")["base"]["format"], "gguf blocks");
    let loss = eval(&place, "out", &[]);
    place.run(&["merge", "out", "--output", "merged", "--dtype", "f32"]).ok();
    assert!((eval(&place, "merged", &[]) - loss).abs() < 1e-4);
}

#[test]
fn full_fine_tuning_writes_a_model_folder() {
    for base in ["llama3_rope", "llama_tied"] {
        let place = Place::with_run("full");
        place.write("run.yaml", &run_file(&super::helper::model(base), "full"));
        learns(&place, &["--set", "train.lr=2e-3"]);
        let found = names(&place.path("out"));
        for name in ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"] {
            assert!(found.iter().any(|f| f == name), "{name} is not in {found:?}");
        }
        let before = eval(&place, &super::helper::model(base).display().to_string(), &[]);
        let after = eval(&place, "out", &["--exact-match", "--max-new-tokens", "8"]);
        assert!(after < 0.8 * before, "{before} to {after}");
        place.run(&["generate", "out", "--prompt", "What comes after 3?", "--max-new-tokens", "4"]).ok();
    }
}

#[test]
fn json_is_one_object_on_stdout_and_lines_on_stderr() {
    let place = Place::with_run("lora");
    let out = place.run(&["train", "run.yaml", "--json", "--set", "train.max_steps=3"]).ok();
    assert_eq!(out.stdout.lines().count(), 1);
    let events: Vec<Value> =
        out.stderr.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["event"].as_str().expect("a kind")).collect();
    let expected = ["prepared", "start", "step", "step", "step", "checkpoint", "message"];
    assert_eq!(kinds.iter().filter(|k| **k != "warning").copied().collect::<Vec<_>>(), expected);
    let out = place.run(&["train", "run.yaml", "--json"]);
    assert_eq!((out.code, out.stdout.as_str()), (Some(1), ""), "an error leaves stdout empty");
    let error: Value = serde_json::from_str(out.stderr.lines().last().expect("a line")).expect("JSON");
    assert_eq!(error["event"], "error");
    assert!(error["hint"].as_str().is_some_and(|h| h.contains("--resume")), "{error}");
}

#[test]
fn an_adapter_is_where_another_run_starts() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "output.dir=first"]).ok();
    let end = place.losses("first")[19].1;
    let more = ["--set", "train.init_adapter=first", "--set", "train.max_steps=1", "--set", "output.dir=out"];
    let mut args = vec!["train", "run.yaml"];
    args.extend(more);
    place.run(&args).ok();
    let start = place.losses("out")[0].1;
    assert!(start < end + 0.3, "the first run ended at {end}, the second starts at {start}");
}

#[test]
fn every_step_drops_other_inputs() {
    let place = Place::with_run("lora");
    let first = ["--set", "method.dropout=0.5", "--set", "output.dir=first"];
    place.run(&[&["train", "run.yaml"], &first[..]].concat()).ok();
    // The same rows in the same order, and next to nothing is learned: only dropout differs.
    let still = ["train.init_adapter=first", "train.lr=1e-10", "train.batch_rows=24", "data.shuffle=false"];
    let mut args = vec!["train", "run.yaml"];
    args.extend(still.iter().flat_map(|o| ["--set", o]));
    place.run(&args).ok();
    let mut losses: Vec<u64> = place.losses("out").iter().map(|l| l.1.to_bits()).collect();
    losses.sort_unstable();
    losses.dedup();
    assert_eq!(losses.len(), 5, "{:?}", place.losses("out"));
}

#[test]
fn how_the_work_is_done_does_not_change_the_result() {
    let place = Place::with_run("lora");
    let run = |dir: &str, options: &[&str]| {
        let dir_key = format!("output.dir={dir}");
        let mut args = vec!["train", "run.yaml", "--set", "train.max_steps=6", "--set", &dir_key];
        args.extend(options);
        place.run(&args).ok();
        (place.losses(dir), place.bytes(&format!("{dir}/adapter_model.safetensors")))
    };
    let expected = run("a", &["--threads", "1"]);
    assert!(run("b", &["--threads", "3"]) == expected, "threads");
    assert!(run("c", &["--set", "train.activations=recompute"]) == expected, "activations");
    assert!(run("f", &["--set", "train.stream=always"]) == expected, "a base that stays in its file");
    for (dir, option) in [("d", "train.micro_batch_tokens=60"), ("e", "data.packing=false")] {
        let (losses, _) = run(dir, &["--set", option]);
        for (found, expected) in losses.iter().zip(&expected.0) {
            assert!((found.1 - expected.1).abs() < 1e-4, "{option}: {found:?} and {expected:?}");
        }
    }
}

#[test]
fn layers_that_are_updated_one_by_one_are_those_of_a_whole_step() {
    // With a head of its own, with a tied one, with experts.
    for name in ["llama3_rope", "llama_tied", "gemma2", "qwen3_moe"] {
        let place = Place::with_run("full");
        place.write("run.yaml", &run_file(&model(name), "full"));
        let run = |dir: &str, options: &[&str]| {
            let dir_key = format!("output.dir={dir}");
            let mut args =
                vec!["train", "run.yaml", "--json", "--set", "train.max_steps=4", "--set", &dir_key];
            args.extend(options.iter().flat_map(|o| ["--set", o]));
            let out = place.run(&args).ok();
            let start = out.stderr.lines().find(|l| l.contains("\"event\":\"start\"")).expect("a start");
            let start: Value = serde_json::from_str(start).expect("JSON");
            (start["plan"]["gradients"].as_u64().expect("bytes"), place.losses(dir))
        };
        // No gradient is that long, so nothing is clipped, but everything waits for the norm.
        let (whole, losses) = run("whole", &["train.max_grad_norm=1e9"]);
        for (dir, optimizer) in [("one", "adamw"), ("paged", "paged_adamw")] {
            let optimizer = format!("train.optimizer={optimizer}");
            let (parts, found) = run(dir, &["train.max_grad_norm=0", &optimizer]);
            assert!(parts < whole, "{name}: {parts} of {whole}");
            assert_eq!(found, losses, "{name}");
            let weights = |dir: &str| place.bytes(&format!("{dir}/model.safetensors"));
            assert!(weights(dir) == weights("whole"), "{name}");
            let norms = |dir: &str| {
                let steps = place.metrics(dir).0;
                steps.iter().map(|s| s["grad_norm"].as_f64().expect("a norm")).collect::<Vec<_>>()
            };
            let near = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() < 1e-9;
            assert!(norms(dir).iter().zip(&norms("whole")).all(near), "{name}");
        }
        // More than one micro-batch: gradients are summed, so they wait.
        let (parts, _) = run("sums", &["train.max_grad_norm=0", "train.micro_batch_tokens=60"]);
        assert_eq!(parts, whole, "{name}");
    }
}

#[test]
fn embedding_and_head_take_the_form_that_is_asked_for() {
    // With a head of its own, and with a tied one.
    for name in ["llama3_rope", "llama_tied"] {
        let place = Place::with_run("qlora");
        place.write("run.yaml", &run_file(&model(name), "qlora"));
        let run = |form: &str| {
            let (dir, form) = (format!("output.dir={form}"), format!("model.embeddings={form}"));
            let args = ["train", "run.yaml", "--json", "--set", &dir, "--set", &form];
            place
                .run(
                    &[&args[..], &["--set", "train.precision=f32", "--set", "data.eval=rows.jsonl"]].concat(),
                )
                .ok()
        };
        let forms = ["auto", "keep", "bf16", "int8", "nf4"];
        let [auto, keep, bf16, int8, nf4] = forms.map(|form| {
            let done: Value = serde_json::from_str(&run(form).stdout).expect("JSON");
            let (first, again) = (place.losses(form)[0].1, run_again(&place, form));
            // What reads the run folder later takes the same form.
            assert_eq!(done["eval_loss"].as_f64(), Some(again), "{name} {form}");
            (first, place.json(&format!("{form}/receipt.json"))["planned_bytes"].as_u64().expect("bytes"))
        });
        assert_eq!(auto, keep, "{name}");
        let off = |found: (f64, u64)| (found.0 - auto.0).abs();
        assert!(off(bf16) < 1e-2 && off(int8) < 2e-2 && off(nf4) < 0.2, "{auto:?} {bf16:?} {int8:?} {nf4:?}");
        assert!(off(nf4) > 0.0 && off(int8) > 0.0, "{name}");
        assert!(nf4.1 < int8.1 && int8.1 < bf16.1 && bf16.1 <= keep.1, "{keep:?} {bf16:?} {int8:?} {nf4:?}");
        place
            .run(&["train", "run.yaml", "--set", "method.kind=full", "--set", "model.embeddings=nf4"])
            .refused(&["model.embeddings", "full"]);
    }
}

/// The loss of a run's adapter on all rows.
fn run_again(place: &Place, dir: &str) -> f64 {
    let out = place.run(&["eval", dir, "--data", "rows.jsonl", "--json", "--precision", "f32"]).json();
    out["eval_loss"].as_f64().expect("a loss")
}

#[test]
fn preview_marks_supervised_text_without_colour() {
    let place = Place::with_run("lora");
    let set = ["--set", "data.shuffle=false"];
    let mut args = vec!["preview", "run.yaml", "-n", "2", "--tokens"];
    args.extend(set);
    let out = place.run(&args).ok();
    assert!(!out.stdout.contains('\u{1b}'), "no colour into a pipe");
    let supervised: Vec<&str> =
        out.stdout.split('⟦').skip(1).map(|piece| piece.split('⟧').next().unwrap_or_default()).collect();
    assert_eq!(supervised.len(), 2, "a stretch for each answer: {supervised:?}");
    assert!(supervised[0].contains("After 0 comes 1."), "{supervised:?}");
    assert!(!supervised.concat().contains("What comes"), "{supervised:?}");
    assert!(!place.path("out").exists(), "a look at the rows writes nothing");
    let json = place.run(&["preview", "run.yaml", "--json"]).json();
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(3));
    let coloured = place.run(&["preview", "run.yaml", "--color", "always"]).ok();
    assert!(coloured.stdout.contains("\u{1b}[32m"));
}
