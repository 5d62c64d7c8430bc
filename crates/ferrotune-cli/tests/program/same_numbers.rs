//! Configurations that say a thing twice, leave it out, or say what their family's code does not read: the loss that
//! transformers has for them, or a refusal by name.

use serde_json::Value;

use super::helper::{Out, Place, edit_tensors, golden_json, model};

fn cases() -> Value {
    golden_json("config_numbers.json")
}

/// The model of a case in a folder of that name.
fn make(place: &Place, case: &Value, name: &str) {
    let _ = std::fs::remove_dir_all(place.path(name));
    let folder = place.copy_of(&model(case["model"].as_str().expect("a model")), name);
    let mut config = place.json(&format!("{name}/config.json"));
    let keys = config.as_object_mut().expect("an object");
    for key in case["remove"].as_array().expect("keys") {
        keys.remove(key.as_str().expect("a key"));
    }
    keys.extend(case["set"].as_object().expect("keys").clone());
    place.write(&format!("{name}/config.json"), &config.to_string());
    if let Some(head) = case["head"].as_str() {
        edit_tensors(&folder.join("model.safetensors"), |tensors| {
            tensors.retain(|t| t.name != "lm_head.weight");
            let table =
                tensors.iter().find(|t| t.name == "model.embed_tokens.weight").expect("the embedding");
            let mut new = super::helper::Tensor { name: "lm_head.weight".into(), ..table.clone() };
            if head == "other" {
                let row = new.data.len() / new.shape[0];
                new.data.rotate_right(row);
            }
            tensors.push(new);
        });
    }
}

fn eval(place: &Place, folder: &str) -> Out {
    place.run(&["eval", folder, "--data", "rows.jsonl", "--precision", "f32", "--json"])
}

#[test]
fn losses_are_those_of_transformers() {
    let cases = cases();
    let place = Place::with_rows_of(&cases);
    let mut wrong = Vec::new();
    for case in cases["cases"].as_array().expect("cases") {
        make(&place, case, "model");
        let out = eval(&place, "model");
        let about = format!("{}, {}", case["model"], case["name"]);
        match (case["loss"].as_f64(), out.code) {
            (Some(expected), Some(0)) => {
                let found = out.eval_loss();
                if (found - expected).abs() > 2e-5 {
                    wrong.push(format!("{about}: {found}, transformers has {expected}"));
                }
            }
            // What transformers cannot compute is refused by the name of a key.
            (None, Some(1)) if out.stderr.contains("model/config.json: `") => {}
            (expected, _) => wrong.push(format!("{about}: transformers has {expected:?}: {}", out.stderr)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The case of a model with this name.
fn find<'a>(cases: &'a Value, model: &str, name: &str) -> &'a Value {
    let all = cases["cases"].as_array().expect("cases").iter();
    all.into_iter().find(|c| c["model"] == model && c["name"] == name).expect("the case")
}

#[test]
fn what_is_passed_over_is_said() {
    let cases = cases();
    let place = Place::with_rows_of(&cases);
    for (name, words) in [
        ("tied, another head", &["tie_word_embeddings", "differ"][..]),
        ("partial_rotary_factor", &["partial_rotary_factor", "not used in a llama model"]),
    ] {
        make(&place, find(&cases, "llama_tied", name), "model");
        let out = place.run(&["eval", "model", "--data", "rows.jsonl"]).ok();
        let said =
            out.stderr.lines().find(|l| l.starts_with("warning: model/config.json")).unwrap_or_default();
        assert!(words.iter().all(|w| said.contains(w)), "{words:?} are not in {out:#?}");
    }
    make(&place, find(&cases, "llama_tied", "tied, the same head"), "model");
    let out = place.run(&["eval", "model", "--data", "rows.jsonl"]).ok();
    assert!(!out.stderr.contains("warning: model/config.json"), "{out:#?}");
}

#[test]
fn a_head_of_its_own_stays_one() {
    let cases = cases();
    let place = Place::with_rows_of(&cases);
    let case = find(&cases, "llama_tied", "tied, another head");
    make(&place, case, "model");
    // Trained and merged, it is written and read as what it is.
    place.write("run.yaml", &super::helper::run_file(&place.path("model"), "lora"));
    let set = ["method.targets=[lm_head]", "train.max_steps=1", "train.lr=1e-9"];
    let mut args = vec!["train", "run.yaml"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    place.run(&args).ok();
    place.run(&["merge", "out", "--dtype", "f32", "--output", "merged"]).ok();
    assert_eq!(place.json("merged/config.json")["tie_word_embeddings"], false);
    let expected = case["loss"].as_f64().expect("a loss");
    let found = eval(&place, "merged").eval_loss();
    assert!((found - expected).abs() < 2e-5, "{found}, transformers has {expected}");
    // The 4-bit folder says so too.
    place.run(&["quantize", "model", "--output", "four"]).ok();
    assert_eq!(place.json("four/config.json")["tie_word_embeddings"], false);
}
