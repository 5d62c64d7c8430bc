//! A run that begins with an adapter: its constants are the adapter's, and what the run file states otherwise is refused.

use super::helper::{Place, golden, model, names};

/// A place with an adapter `first` of rank 4, alpha 8, dropout 0.1 on q_proj and v_proj, and a run file that states nothing
/// of that.
fn place() -> Place {
    let place = Place::with_run("lora");
    let set =
        ["method.dropout=0.1", "method.targets=[v_proj, q_proj]", "train.max_steps=2", "output.dir=first"];
    let mut args = vec!["train", "run.yaml"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    place.run(&args).ok();
    place.write("run.yaml", &place.read("run.yaml").replace(", rank: 4, alpha: 8", ""));
    place
}

fn train<'a>(set: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["train", "run.yaml", "--set", "train.init_adapter=first", "--set", "train.max_steps=2"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    args
}

#[test]
fn what_is_left_open_is_that_of_the_adapter() {
    let place = place();
    place.run(&train(&[])).ok();
    let run = place.read("out/run.yaml");
    for line in ["rank: 4", "alpha: 8", "dropout: 0.1", "init_adapter: first"] {
        assert!(run.contains(line), "{line} is not in {run}");
    }
    assert!(!run.contains("all-linear"), "{run}");
    let config = place.json("out/adapter_config.json");
    assert_eq!((&config["r"], &config["lora_dropout"]), (&4.into(), &0.1.into()));
    // What was written says the same again, stated in full.
    place.run(&["train", "out/run.yaml", "--set", "output.dir=again"]).ok();
    assert_eq!(place.losses("again"), place.losses("out"));
}

#[test]
fn what_is_stated_otherwise_is_refused_with_both_values() {
    let place = place();
    let before = names(&place.path("."));
    for (set, words) in [
        (&["method.rank=8"][..], &["method.rank", "found 8", "has 4"][..]),
        // As it is by default, but stated.
        (&["method.r=16"], &["method.rank", "found 16", "has 4"]),
        (&["method.lora_alpha=16"], &["method.alpha", "found 16", "has 8"]),
        (&["method.dropout=0"], &["method.dropout", "found 0.0", "has 0.1"]),
        (&["method.dora=true"], &["method.dora", "found true", "has false"]),
        (&["method.rslora=true"], &["method.rslora", "found true", "has false"]),
        (&["method.init=pissa"], &["method.init", "pissa", "kaiming"]),
        (&["method.bias=all"], &["method.bias", "all", "none"]),
        (&["method.lora_bias=true"], &["method.lora_bias", "true"]),
        (&["method.targets=all-linear"], &["method.targets", "all-linear", "q_proj"]),
        (&["method.targets=[q_proj]"], &["method.targets", "[\"q_proj\"]", "v_proj"]),
        (&["method.exclude=[k_proj]"], &["method.exclude", "k_proj", "none"]),
        (&["method.layers_to_transform=[1]"], &["method.layers_to_transform", "[1]", "none"]),
        (&["method.rank_pattern={q_proj: 2}"], &["method.rank_pattern", "q_proj", "none"]),
        (&["method.modules_to_save=[norm]"], &["method.modules_to_save", "norm", "none"]),
        (&["method.trainable_tokens=[3]"], &["method.trainable_tokens", "[3]", "none"]),
    ] {
        let out = place.run(&train(set)).refused(&[words, &["first"]].concat());
        assert!(out.stderr.contains("hint: an adapter that a run begins with"), "{out:#?}");
        assert_eq!(names(&place.path(".")), before, "{set:?}");
    }
    place
        .run(&["plan", "run.yaml", "--set", "train.init_adapter=first", "--set", "method.rank=8"])
        .refused(&["method.rank", "found 8", "has 4"]);
    place.run(&train(&["method.kind=full"])).refused(&["train.init_adapter", "method.kind: full"]);
}

#[test]
fn other_weights_than_those_it_was_trained_beside_are_said() {
    let place = place();
    let says = |set: &[&str], word: &str| {
        let out = place.run(&train(set)).ok();
        assert!(out.stderr.contains(word), "{set:?}: `{word}` is not in {out:#?}");
    };
    let out = place.run(&train(&["output.dir=same"])).ok();
    assert!(!out.stderr.contains("was trained beside"), "{out:#?}");
    says(
        &["method.kind=qlora", "output.dir=rounded"],
        "warning: the adapter in first was trained beside its base in another form",
    );
    let other = format!("model.base='{}'", model("mistral").display());
    says(&[&other, "output.dir=other"], "another base");
}

#[test]
fn dropout_of_the_model_itself_is_not_applied_and_that_is_said() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &super::helper::run_file(&base, "lora"));
    let text =
        place.read("base/config.json").replace("\"attention_dropout\": 0.0", "\"attention_dropout\": 0.25");
    place.write("base/config.json", &text);
    let out = place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    assert!(out.stderr.contains("`attention_dropout`: 0.25 is not applied"), "{out:#?}");
    let out = place.run(&["eval", "out", "--data", "rows.jsonl"]).ok();
    assert!(!out.stderr.contains("warning"), "there is no dropout where nothing is trained: {out:#?}");
}

#[test]
fn the_same_in_other_words_is_no_other_value() {
    let place = place();
    let same = [
        "method.rank=4",
        "method.alpha=8.0",
        "method.dropout=0.1",
        "method.targets='.*\\.self_attn\\.[qv]_proj'",
    ];
    place.run(&train(&same)).ok();
    // PEFT writes the linears that it found where all were asked for.
    let peft = golden("models/llama3_rope/adapter").display().to_string();
    let base = model("llama3_rope").display().to_string();
    let init = format!("train.init_adapter={peft}");
    let set = [&init, "method.targets=all-linear", "output.dir=peft"];
    place.run(&train(&set)).ok();
    assert_eq!(place.json("peft/adapter_config.json")["r"], 8);
    assert!(place.read("peft/run.yaml").contains("all-linear"));
    let args = ["eval", &base, "--adapter", "peft", "--data", "rows.jsonl", "--json"];
    assert!(place.run(&args).json()["eval_loss"].as_f64().is_some());
}
