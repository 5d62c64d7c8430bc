//! Adapter folders that PEFT reads: the same loss here, whatever else they say; and what does not fit is named truly.

use std::path::Path;

use serde_json::Value;

use super::helper::{Out, Place, Tensor, edit_tensors, golden, golden_json, model};

fn case() -> Value {
    golden_json("peft_folders/case.json")
}

fn eval(place: &Place, model: &Path, more: &[&str]) -> Out {
    let model = model.display().to_string();
    let args = [&["eval", &model, "--data", "rows.jsonl", "--precision", "f32", "--json"], more].concat();
    place.run(&args)
}

#[test]
fn what_peft_reads_computes_the_same() {
    let case = case();
    let place = Place::with_rows_of(&case);
    for (name, about) in case["cases"].as_object().expect("cases") {
        let base = model(about["model"].as_str().expect("a model"));
        let folder = golden(&format!("peft_folders/{name}")).display().to_string();
        let expected = about["loss"].as_f64().expect("a loss");
        let found = eval(&place, &base, &["--adapter", &folder]).eval_loss();
        assert!((found - expected).abs() < 1e-5, "{name}: {found}, PEFT has {expected}");
        assert!((found - about["base_loss"].as_f64().expect("a loss")).abs() > 1e-3, "{name} does nothing");
        let merged = format!("merged-{name}");
        let base = base.display().to_string();
        place.run(&["merge", &folder, "--base", &base, "--dtype", "f32", "--output", &merged]).ok();
        let found = eval(&place, &place.path(&merged), &[]).eval_loss();
        assert!((found - expected).abs() < 1e-4, "{name} merged: {found}, PEFT has {expected}");
    }
    // A run can begin with each of them.
    for (name, about) in case["cases"].as_object().expect("cases") {
        let base = model(about["model"].as_str().expect("a model"));
        let run = super::helper::run_file(&base, "lora").replace(", rank: 4, alpha: 8", "");
        place.write("run.yaml", &run);
        let init = format!("train.init_adapter='{}'", golden(&format!("peft_folders/{name}")).display());
        let output = format!("output.dir=from-{name}");
        let set = [&init, "train.max_steps=1", "train.lr=1e-9", &output];
        let mut args = vec!["train", "run.yaml"];
        args.extend(set.iter().flat_map(|s| ["--set", s]));
        place.run(&args).ok();
        let expected = about["loss"].as_f64().expect("a loss");
        let found = eval(&place, &place.path(&format!("from-{name}")), &[]).eval_loss();
        assert!((found - expected).abs() < 1e-5, "{name} trained on: {found}, PEFT has {expected}");
    }
    let tied = |name: &str| place.json(&format!("{name}/config.json"))["tie_word_embeddings"].clone();
    assert_eq!(tied("merged-tied_head"), false, "the head is another matrix than the embedding now");
}

#[test]
fn a_branch_on_a_tied_head_is_trained() {
    let place = Place::with_run("lora");
    place.write("run.yaml", &super::helper::run_file(&model("llama_tied"), "lora"));
    let set = ["method.targets=[q_proj, lm_head]", "train.max_steps=8", "data.eval=rows.jsonl"];
    let mut args = vec!["train", "run.yaml", "--json"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    let trained = place.run(&args).eval_loss();
    let (_, evals) = place.metrics("out");
    assert!(trained < 0.95 * evals[0]["eval_loss"].as_f64().expect("a loss"), "{evals:?}");
    let names = std::fs::read(place.path("out/adapter_model.safetensors")).expect("the adapter");
    let names = safetensors::SafeTensors::deserialize(&names).expect("tensors");
    assert!(names.names().contains(&"base_model.model.lm_head.lora_B.weight"), "{:?}", names.names());
    let again = eval(&place, &place.path("out"), &["--max-length", "128"]).eval_loss();
    assert!((again - trained).abs() < 1e-5, "{trained} {again}");
    let refused = ["method.targets=[lm_head]", "method.trainable_tokens=[3]", "output.dir=both"];
    let mut args = vec!["train", "run.yaml"];
    args.extend(refused.iter().flat_map(|s| ["--set", s]));
    place.run(&args).refused(&["method.trainable_tokens", "lm_head"]);
}

#[test]
fn what_does_not_fit_is_named_truly() {
    let case = case();
    let place = Place::with_rows_of(&case);
    let damaged = |name: &str, edit: &dyn Fn(&mut Vec<Tensor>)| {
        let _ = std::fs::remove_dir_all(place.path("bad"));
        let folder = place.copy_of(&golden(&format!("peft_folders/{name}")), "bad");
        edit_tensors(&folder.join("adapter_model.safetensors"), |tensors| edit(tensors));
        let base = model(case["cases"][name]["model"].as_str().expect("a model"));
        eval(&place, &base, &["--adapter", "bad"])
    };
    let hint = |out: Out, words: &[&str], hint: &str| {
        let error: Value = serde_json::from_str(out.stderr.lines().last().expect("a line")).expect("JSON");
        assert_eq!(out.code, Some(1), "{out:#?}");
        let (message, found) =
            (error["error"].as_str().expect("text"), error["hint"].as_str().expect("text"));
        assert!(words.iter().all(|w| message.contains(w)), "{words:?} are not in {message}");
        assert!(found.contains(hint), "`{hint}` is not in {found}");
    };
    let renamed = |from: &'static str, to: &'static str| {
        move |t: &mut Vec<Tensor>| t.iter_mut().for_each(|t| t.name = t.name.replace(from, to))
    };
    // A module that the model does not have, one that is not targeted, one that is missing.
    let elsewhere = renamed("layers.1.self_attn.v_proj", "layers.1.self_attn.query_key_value");
    let extra = |name: &'static str| {
        move |t: &mut Vec<Tensor>| {
            let pair: Vec<Tensor> =
                t.iter().filter(|t| t.name.contains("layers.1.self_attn.v_proj")).cloned().collect();
            t.extend(
                pair.into_iter()
                    .map(|p| Tensor { name: p.name.replace("layers.1.self_attn.v_proj", name), ..p }),
            );
        }
    };
    hint(
        damaged("absent_targets", &extra("layers.1.self_attn.query_key_value")),
        &["query_key_value", "belongs to no module"],
        "another base model",
    );
    hint(
        damaged("absent_targets", &extra("layers.1.self_attn.k_proj")),
        &["k_proj", "no targeted module"],
        "do not belong together",
    );
    hint(
        damaged("absent_targets", &elsewhere),
        &["v_proj", "missing", "target_modules"],
        "do not belong together",
    );
    // A table of other values than the base's.
    let other = |t: &mut Vec<Tensor>| {
        t.iter_mut()
            .filter(|t| t.name.ends_with("embed_tokens.weight"))
            .for_each(|t| t.data.rotate_left(256));
    };
    hint(damaged("tables", &other), &["embed_tokens.weight", "not the base model's"], "changed vocabulary");
    // The same tensor under both kinds of names.
    let twice = |t: &mut Vec<Tensor>| {
        let one = t.iter().find(|t| t.name.contains("lora_A")).expect("an A").clone();
        t.push(Tensor { name: one.name.replace(".default", ""), ..one });
    };
    hint(damaged("adapter_name", &twice), &["lora_A", "stands twice"], "");
    // A feature of a later version that is in use.
    let folder = place.copy_of(&golden("peft_folders/later_keys"), "bad");
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).expect("it");
    std::fs::write(
        folder.join("adapter_config.json"),
        text.replace("\"its_strength\": 0.0", "\"its_strength\": 0.5"),
    )
    .expect("it");
    hint(eval(&place, &model("llama3_rope"), &["--adapter", "bad"]), &["its_strength"], "");
}
