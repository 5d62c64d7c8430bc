//! The weights that an adapter was trained beside: kept in its folder, used wherever it is opened, never guessed silently.

use super::helper::{Place, golden, model, names, run_file};

fn eval(place: &Place, model: &str, more: &[&str]) -> f64 {
    let mut args =
        vec!["eval", model, "--data", "rows.jsonl", "--max-length", "128", "--json", "--precision", "f32"];
    args.extend(more);
    place.run(&args).eval_loss()
}

/// Copies the files of an adapter folder into a folder of its own, without what else stands in a run folder.
fn adapter_alone(place: &Place, from: &str, to: &str, more: &[&str]) {
    std::fs::create_dir_all(place.path(to)).expect("a folder");
    for name in ["adapter_config.json", "adapter_model.safetensors"].iter().chain(more) {
        std::fs::copy(place.path(&format!("{from}/{name}")), place.path(&format!("{to}/{name}")))
            .expect("a copy");
    }
}

#[test]
fn an_adapter_keeps_the_form_of_its_base_without_the_run_file() {
    for (set, form) in [
        (&["method.quant.type=nf4"][..], "nf4"),
        (&["method.quant.type=fp4", "method.quant.double=false", "method.quant.block=128"], "fp4"),
        (&["method.quant.type=int8"], "int8"),
        (&["method.quant.type=nf4", "model.embeddings=int8"], "nf4"),
    ] {
        let place = Place::with_run("qlora");
        let mut args = vec!["train", "run.yaml", "--set", "train.max_steps=4"];
        args.extend(set.iter().flat_map(|s| ["--set", s]));
        place.run(&args).ok();
        let trained = eval(&place, "out", &[]);
        let base = model("llama3_rope").display().to_string();
        let stored = eval(&place, &base, &["--adapter", "out", "--quant", "keep"]);
        assert!((stored - trained).abs() > 1e-5, "{form}: the form must make a difference to be seen");

        adapter_alone(&place, "out", "copy", &["ferrotune_base.json", "generation_config.json"]);
        for adapter in ["copy", "out/checkpoints/step-4"] {
            assert_eq!(eval(&place, adapter, &[]), trained, "{form}: {adapter}");
            assert_eq!(eval(&place, &base, &["--adapter", adapter]), trained, "{form}: {adapter}");
            let merged = format!("merged-{}", adapter.len());
            let out = place.run(&["merge", adapter, "--output", &merged, "--dtype", "f32"]).ok();
            assert!(out.stderr.contains("those that the adapter was trained beside"), "{out:#?}");
            assert!((eval(&place, &merged, &[]) - trained).abs() < 1e-4, "{form}: merged from {adapter}");
        }
        // Combined with nothing, it is still that adapter.
        place.run(&["combine", "copy", "--output", "rewritten"]).ok();
        assert_eq!(eval(&place, "rewritten", &[]), trained, "{form}");
        assert!(names(&place.path("rewritten")).iter().any(|n| n == "generation_config.json"));
    }
}

#[test]
fn a_form_that_is_not_known_is_not_claimed() {
    let place = Place::with_run("qlora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=4"]).ok();
    let base = model("llama3_rope").display().to_string();
    // As PEFT would write it.
    adapter_alone(&place, "out", "foreign", &[]);
    let says = "does not say in which form";
    let out = place.run(&["merge", "foreign", "--output", "unknown", "--dtype", "f32"]).ok();
    assert!(out.stderr.contains(says) && out.stderr.contains("as stored"), "{out:#?}");
    assert!(!out.stderr.contains("those that the adapter was trained beside"), "{out:#?}");
    let out = place.run(&["eval", &base, "--adapter", "foreign", "--data", "rows.jsonl"]).ok();
    assert!(out.stderr.contains(says), "{out:#?}");

    // Said by the user, it is not asked again.
    let trained = eval(&place, "out", &[]);
    let out = place.run(&["merge", "foreign", "--quant", "nf4", "--output", "asked", "--dtype", "f32"]).ok();
    assert!(!out.stderr.contains(says), "{out:#?}");
    assert!((eval(&place, "asked", &[]) - trained).abs() < 1e-4);
    assert!((eval(&place, "unknown", &[]) - trained).abs() > 1e-4);
    place.run(&["merge", "out", "--onto", "stored", "--output", "stored", "--dtype", "f32"]).ok();
    assert_eq!(eval(&place, "stored", &[]), eval(&place, "unknown", &[]));
    place
        .run(&["merge", "out", "--onto", "stored", "--quant", "nf4", "--output", "m"])
        .refused(&["--onto", "--quant nf4"]);
    place.run(&["merge", "out", "--quant", "int1", "--output", "m"]).misused(&["--quant", "int1", "'int8'"]);

    // Beside a base that is in memory in another form, the chat says so.
    let out = place.run_with(&["chat", &base], "/adapter out").ok();
    assert!(out.stderr.contains("in another form"), "{out:#?}");
    let out = place.run_with(&["chat", "out"], "/base\n/adapter out/checkpoints/step-4").ok();
    assert!(!out.stderr.contains("in another form"), "{out:#?}");

    place.write("out/ferrotune_base.json", "{}");
    place.run(&["eval", "out", "--data", "rows.jsonl"]).refused(&["ferrotune_base.json", "--quant"]);
}

#[test]
fn a_base_that_is_not_here_is_asked_for() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    adapter_alone(&place, "out", "alone", &[]);
    std::fs::rename(&base, place.path("moved")).expect("another place");
    for (adapter, file) in [("out", "out/run.yaml"), ("alone", "alone/adapter_config.json")] {
        for args in [
            &["eval", adapter, "--data", "rows.jsonl"][..],
            &["generate", adapter, "--prompt", "x"],
            &["chat", adapter],
            &["merge", adapter, "--output", "merged"],
        ] {
            let out = place.run(args).refused(&[file, "base"]);
            let hint = out.stderr.lines().find(|l| l.starts_with("hint: ")).expect("a hint");
            assert!(hint.contains("--base"), "{hint}");
        }
        place.run(&["eval", adapter, "--base", "moved", "--data", "rows.jsonl"]).ok();
    }
    let text = place.read("alone/adapter_config.json").replace(&base.display().to_string(), "owner/not-here");
    place.write("alone/adapter_config.json", &text);
    let out = place.run(&["eval", "alone", "--data", "rows.jsonl"]).refused(&["alone/adapter_config.json"]);
    assert!(out.stderr.contains("owner/not-here") && out.stderr.contains("--base"), "{out:#?}");
}

#[test]
fn nothing_is_written_over() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    place.write("notes/README.md", "mine");
    std::fs::create_dir(place.path("empty")).expect("a folder");
    let peft = golden("models/llama3_rope/adapter").display().to_string();
    for taken in ["notes", "base", "out", "run.yaml"] {
        for args in [&["merge", "out"][..], &["combine", &peft], &["quantize", "base"]] {
            let before = std::fs::read_dir(place.path(".")).expect("a folder").count();
            let args = [args, &["--output", taken]].concat();
            place.run(&args).refused(&[taken, "exists already"]);
            assert_eq!(std::fs::read_dir(place.path(".")).expect("a folder").count(), before);
        }
    }
    assert_eq!(place.read("notes/README.md"), "mine");
    place.run(&["merge", "out", "--output", "empty"]).ok();
    assert!(place.path("empty/model.safetensors").exists());
}
