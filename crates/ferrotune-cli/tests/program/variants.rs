//! Adapters of every kind, from the run file to a merged model; and what cannot be.

use super::helper::{Place, edit_tensors, golden, model, names, run_file};

/// A place with a run of six steps on a model.
fn place(base: &str) -> Place {
    let place = Place::with_run("lora");
    place.write("run.yaml", &run_file(&model(base), "lora"));
    place
}

const STEPS: [&str; 8] = [
    "--set",
    "train.max_steps=6",
    "--set",
    "train.lr=2.0e-3",
    "--set",
    "data.eval=rows.jsonl",
    "--set",
    "train.eval_every=100",
];

fn train(place: &Place, out: &str, set: &[&str]) -> f64 {
    let dir = format!("output.dir={out}");
    let mut args = vec!["train", "run.yaml", "--json", "--set", &dir];
    args.extend(STEPS);
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    let report = place.run(&args).json();
    let after = report["eval_loss"].as_f64().expect("a loss on the rows");
    let before = place.metrics(out).1[0]["eval_loss"].as_f64().expect("a loss before the first step");
    assert!(after < before, "{set:?}: {before} to {after}");
    after
}

fn eval(place: &Place, model: &str, more: &[&str]) -> f64 {
    let mut args =
        vec!["eval", model, "--data", "rows.jsonl", "--max-length", "128", "--json", "--precision", "f32"];
    args.extend(more);
    place.run(&args).eval_loss()
}

/// Trains; the written adapter has the loss that the run ended with, and so has the merged model.
fn round_trip(place: &Place, out: &str, set: &[&str]) {
    let trained = train(place, out, set);
    let found = eval(place, out, &[]);
    assert!((found - trained).abs() < 1e-5, "{set:?}: trained {trained}, read {found}");
    let merged = format!("{out}-merged");
    place.run(&["merge", out, "--output", &merged, "--dtype", "f32"]).ok();
    let found = eval(place, &merged, &[]);
    assert!((found - trained).abs() < 1e-4, "{set:?}: trained {trained}, merged {found}");
    let ask = |more: &[&str]| {
        let mut args = vec!["generate"];
        args.extend(more);
        args.extend(["--prompt", "What comes after 3?", "--precision", "f32", "--max-new-tokens", "8"]);
        place.run(&args).ok().stdout
    };
    assert_eq!(ask(&[out]), ask(&[out, "--merged"]), "{set:?}");
}

#[test]
fn branches_of_every_kind_are_trained_read_and_merged() {
    let place = place("llama3_rope");
    round_trip(&place, "dora", &["method.dora=true", "method.rslora=true"]);
    let dropped = train(&place, "dropped", &["method.dora=true", "method.dropout=0.3"]);
    assert!((eval(&place, "dropped", &[]) - dropped).abs() < 1e-5);
    round_trip(
        &place,
        "chosen",
        &[
            "method.targets=[q_proj, v_proj, up_proj]",
            "method.exclude_modules=[v_proj]",
            "method.layers_to_transform=[1]",
            "method.rank_pattern={q_proj: 2}",
            "method.alpha_pattern={'.*up_proj': 16}",
        ],
    );
    let config = place.json("chosen/adapter_config.json");
    assert_eq!(config["exclude_modules"][0], "v_proj");
    assert_eq!(config["rank_pattern"]["q_proj"], 2);
    assert_eq!(config["layers_to_transform"][0], 1);
    round_trip(&place, "quantized", &["method.kind=qlora", "method.dora=true"]);
    round_trip(&place, "faster", &["method.loraplus_lr_ratio=8"]);
}

#[test]
fn whole_modules_embeddings_and_tokens_are_trained_read_and_merged() {
    let place = place("llama3_rope");
    round_trip(
        &place,
        "whole",
        &["method.targets=[q_proj]", "method.modules_to_save=[embed_tokens, lm_head, norm]"],
    );
    round_trip(&place, "embedding", &["method.targets=[embed_tokens, q_proj, lm_head]"]);
    round_trip(&place, "tokens", &["method.trainable_token_indices=[3, 4, 60]"]);

    // Embedding and head are one: trained rows change both, anything else takes them apart.
    place.write("run.yaml", &run_file(&model("llama_tied"), "lora"));
    round_trip(&place, "tied-tokens", &["method.trainable_tokens=[3, 4, 60]"]);
    assert_eq!(place.json("tied-tokens-merged/config.json")["tie_word_embeddings"], true);
    round_trip(&place, "tied-whole", &["method.modules_to_save=[embed_tokens]"]);
    assert_eq!(place.json("tied-whole-merged/config.json")["tie_word_embeddings"], false);
    round_trip(&place, "tied-embedding", &["method.targets=[embed_tokens, q_proj]"]);
}

#[test]
fn biases_are_trained_read_and_merged() {
    let place = place("qwen2");
    round_trip(&place, "all", &["method.bias=all"]);
    round_trip(&place, "own", &["method.targets=[q_proj, v_proj]", "method.lora_bias=true"]);
    round_trip(&place, "targeted", &["method.targets=[k_proj]", "method.bias=lora_only"]);
}

#[test]
fn starts_that_change_the_base_are_made_again_when_read() {
    let place = place("llama3_rope");
    for start in ["pissa", "olora"] {
        let init = format!("method.init={start}");
        round_trip(&place, start, &[&init]);
        // The same as a plain LoRA of twice the rank.
        let plain = format!("{start}/adapter_converted");
        assert!(place.read(&format!("{start}/README.md")).contains("`adapter_converted/`"));
        assert_eq!(place.json(&format!("{plain}/adapter_config.json"))["r"], 8);
        let base = model("llama3_rope").display().to_string();
        let (found, expected) = (eval(&place, &base, &["--adapter", &plain]), eval(&place, start, &[]));
        assert!((found - expected).abs() < 1e-4, "{start}: {expected}, converted {found}");
    }
    round_trip(&place, "loftq", &["method.kind=qlora", "method.init=loftq", "method.loftq_iter=2"]);
    assert_eq!(place.json("loftq/adapter_config.json")["loftq_config"]["loftq_iter"], 2);
    assert!(!place.path("loftq/adapter_converted").exists());
    // From there on, in a second run.
    let after = train(&place, "further", &["train.init_adapter=pissa", "method.init=pissa"]);
    assert!(after < eval(&place, "pissa", &[]));
    assert!((eval(&place, "further", &[]) - after).abs() < 1e-5);
}

#[test]
fn a_resumed_run_of_many_features_ends_with_the_same_bits() {
    let place = place("llama3_rope");
    let set = [
        "method.dora=true",
        "method.init=pissa",
        "method.dropout=0.1",
        "method.trainable_tokens=[3, 4]",
        "method.modules_to_save=[lm_head, norm]",
        "method.loraplus_lr_ratio=4",
        "output.checkpoint_every=3",
    ];
    train(&place, "out", &set);
    let adapter = "out/adapter_model.safetensors";
    let (expected, losses) = (place.bytes(adapter), place.losses("out"));
    std::fs::remove_dir_all(place.path("out/checkpoints/step-6")).expect("the last checkpoint");
    std::fs::remove_file(place.path(adapter)).expect("the result");
    let mut args = vec!["train", "run.yaml", "--resume"];
    args.extend(STEPS);
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    place.run(&args).ok();
    assert_eq!(place.losses("out"), losses);
    assert_eq!(place.bytes(adapter), expected);
}

#[test]
fn what_cannot_stand_together_is_refused_before_training() {
    let place = place("llama3_rope");
    let before = names(&place.path("."));
    for (set, words) in [
        (&["method.init=pisa"][..], &["method.init", "pisa", "did you mean `pissa`"][..]),
        (&["method.bias=some"], &["method.bias", "lora_only"]),
        (&["method.doar=true"], &["method.doar", "dora"]),
        (&["method.dora=true", "method.lora_bias=true"], &["method.lora_bias", "dora"]),
        (&["method.kind=qlora", "method.init=pissa"], &["method.init", "pissa"]),
        (&["method.init=olora", "method.rank=65"], &["method.rank", "65"]),
        (&["method.modules_to_save=[embed_tokenz]"], &["method.modules_to_save", "embed_tokens"]),
        (&["method.trainable_tokens=[7, 9999]"], &["method.trainable_tokens", "9999"]),
        (&["method.trainable_tokens=[7, 7]"], &["method.trainable_tokens", "twice"]),
        (&["method.trainable_tokens=[7]", "method.modules_to_save=embed_tokens"], &["trainable_tokens"]),
        (&["method.targets=[embed_tokens]", "method.dora=true"], &["embed_tokens"]),
        (&["method.exclude='.*'"], &["method.targets"]),
        (&["method.exclude='('"], &["method.exclude"]),
        (&["method.layers_to_transform=[7]"], &["method.targets", "layers_to_transform"]),
        (&["method.rank_pattern={q_proj: 0}"], &["method.rank_pattern"]),
        (&["method.rank_pattern={q_porj: 2}"], &["method.rank_pattern", "q_porj", "nearest `q_proj`"]),
        (&["method.alpha_pattern={lm_head: 2}"], &["method.alpha_pattern", "lm_head"]),
        (&["method.exclude=[q_porj]"], &["method.exclude", "q_porj", "nearest `q_proj`"]),
        (&["method.rank_pattern=[1]"], &["method.rank_pattern", "mapping"]),
    ] {
        let mut args = vec!["train", "run.yaml"];
        args.extend(set.iter().flat_map(|s| ["--set", s]));
        place.run(&args).refused(words);
        assert_eq!(names(&place.path(".")), before, "{set:?}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let base = model("llama3_rope").display().to_string();
    let place = place("llama3_rope");
    let damaged = |case: &str, name: &str, edit: &dyn Fn(&mut Vec<super::helper::Tensor>)| {
        let copy = place.copy_of(&golden(&format!("variants/{case}/adapter_step3")), name);
        edit_tensors(&copy.join("adapter_model.safetensors"), |tensors| edit(tensors));
        place.run(&["eval", &base, "--adapter", name, "--data", "rows.jsonl"])
    };
    let magnitude = "model.layers.0.self_attn.q_proj.lora_magnitude_vector";
    damaged("dora", "missing", &|t| t.retain(|t| !t.name.ends_with(magnitude)))
        .refused(&[magnitude, "missing"]);
    let left = |t: &mut Vec<super::helper::Tensor>| {
        let mut more = t[0].clone();
        more.name = "base_model.model.model.norm.weight".into();
        t.push(more);
    };
    damaged("rslora", "left", &left).refused(&["model.norm.weight", "belongs to no"]);
    let frozen = "model.embed_tokens.base_layer.weight";
    let other = |t: &mut Vec<super::helper::Tensor>| {
        t.iter_mut().filter(|t| t.name.ends_with(frozen)).for_each(|t| t.data.fill(0));
    };
    damaged("lora_embedding", "other", &other).refused(&[frozen]);
    damaged("lora_embedding", "fine", &|_| ()).ok();
}

#[test]
fn a_bias_without_a_place_cannot_be_merged() {
    let place = place("llama3_rope");
    let trained = train(&place, "out", &["method.targets=[q_proj]", "method.lora_bias=true"]);
    assert!((eval(&place, "out", &[]) - trained).abs() < 1e-5);
    place.run(&["merge", "out", "--output", "merged"]).refused(&["q_proj", "lora_B.bias"]);
    assert!(!place.path("merged").exists());
}
