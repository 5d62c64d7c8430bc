//! Models for pictures and text: their text part is trained, their towers are carried along, and both generations of names
//! in files are one model.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use super::helper::{Place, Tensor, edit_tensors, golden, model, run_file};

/// A wrapper, and the beginnings of its names in older files and today.
type Names = &'static [(&'static str, &'static str)];

const LLAVA: Names = &[
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model.language_model."),
    ("vision_tower.", "model.vision_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
];

const WRAPPERS: [(&str, Names); 6] = [
    ("gemma3", LLAVA),
    ("gemma4", &[]),
    ("mistral3", LLAVA),
    ("qwen2_5_vl", &[("visual.", "model.visual."), ("model.", "model.language_model.")]),
    ("qwen3_5_vl", &[("model.visual.", "model.visual."), ("model.", "model.language_model.")]),
    ("qwen3_vl", &[]),
];

/// The copy of a model with the names of today, or the older ones.
fn renamed(place: &Place, name: &str, rules: Names, old: bool) -> String {
    let folder = format!("{name}-{}", if old { "old" } else { "new" });
    let copy = place.copy_of(&model(name), &folder);
    edit_tensors(&copy.join("model.safetensors"), |tensors| {
        for tensor in tensors {
            let known = |p: &&(&str, &str)| tensor.name.starts_with(if old { p.1 } else { p.0 });
            let already = rules.iter().any(|p| tensor.name.starts_with(if old { p.0 } else { p.1 }));
            let longer = rules.iter().any(|p| p.1.starts_with(p.0) && tensor.name.starts_with(p.1));
            if (old || !already || !longer)
                && let Some((from, to)) = rules.iter().find(known)
            {
                let (from, to) = if old { (to, from) } else { (from, to) };
                tensor.name = tensor.name.replacen(from, to, 1);
            }
        }
    });
    folder
}

/// The tensors of a model folder: name, shape, bytes.
pub(super) fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("the weights");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("whole weights");
    file.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn towers_of(name: &str) -> bool {
    ["vision_tower", "multi_modal", "visual"].iter().any(|tower| name.contains(tower))
}

/// Those of the towers.
fn towers(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let mut all = tensors(folder);
    all.retain(|name, _| towers_of(name));
    assert!(all.len() >= 8, "{:?}", all.keys());
    all
}

pub(super) fn eval(place: &Place, folder: &str, more: &[&str]) -> f64 {
    let args = ["eval", folder, "--data", "rows.jsonl", "--precision", "f32", "--json"];
    place.run(&[&args, more].concat()).eval_loss()
}

pub(super) fn train(place: &Place, base: &str, kind: &str, out: &str, more: &[&str]) {
    place.write("run.yaml", &run_file(Path::new(base), kind));
    let out = format!("output.dir={out}");
    let set = [&["train.max_steps=2", &out][..], more].concat();
    let mut args = vec!["train", "run.yaml"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    place.run(&args).ok();
}

#[test]
fn both_generations_of_names_are_the_same_model() {
    let place = Place::with_run("lora");
    for (name, rules) in WRAPPERS {
        let [old, new] = [true, false].map(|old| renamed(&place, name, rules, old));
        let both = [&old, &new].map(|folder| tensors(&place.path(folder)));
        assert_eq!(both[0].keys().eq(both[1].keys()), rules.is_empty(), "{name}");
        assert_eq!(eval(&place, &old, &[]), eval(&place, &new, &[]), "{name}");
        // Adapters are the same bytes, and each fits the other.
        for base in [&old, &new] {
            train(&place, base, "qlora", &format!("adapter-{base}"), &[]);
        }
        let adapter = |base: &str| place.bytes(&format!("adapter-{base}/adapter_model.safetensors"));
        assert!(adapter(&old) == adapter(&new), "{name}");
        for method in ["lora", "full"] {
            let results = [&old, &new].map(|base| {
                let out = format!("{method}-{base}");
                train(&place, base, method, &out, &[]);
                if method == "full" {
                    return out;
                }
                let merged = format!("merged-{base}");
                place.run(&["merge", &out, "--base", base, "--output", &merged]).ok();
                merged
            });
            let losses = results.each_ref().map(|folder| eval(&place, folder, &[]));
            assert_eq!(losses[0], losses[1], "{name} {method}");
            for (base, result) in [&old, &new].into_iter().zip(&results) {
                let (before, after) = (tensors(&place.path(base)), tensors(&place.path(result)));
                assert!(before.keys().eq(after.keys()), "{name} {method}: {:?}", after.keys());
                assert_eq!(towers(&place.path(base)), towers(&place.path(result)), "{name} {method}");
                assert!(before != after, "{name} {method}: nothing was trained");
            }
        }
    }
}

#[test]
fn results_keep_the_wrapper_and_its_processor() {
    let place = Place::with_run("lora");
    for name in ["gemma3", "qwen2_5_vl"] {
        let base = place.copy_of(&model(name), name);
        place.write(&format!("{name}/preprocessor_config.json"), "{\"size\": 8}");
        place.write(&format!("{name}/processor_config.json"), "{}");
        train(&place, name, "lora", &format!("out-{name}"), &[]);
        place.run(&["merge", &format!("out-{name}"), "--base", name, "--output", "merged"]).ok();
        place.run(&["quantize", name, "--output", "four"]).ok();
        for result in ["merged", "four"] {
            let (own, config) =
                (place.json(&format!("{name}/config.json")), place.json(&format!("{result}/config.json")));
            for key in ["model_type", "vision_config", "text_config", "architectures"] {
                let mut expected = own[key].clone();
                if key == "text_config" {
                    expected["dtype"] = config["dtype"].clone();
                }
                assert_eq!(config[key], expected, "{name} {result}: {key}");
            }
            assert_eq!(place.read(&format!("{result}/preprocessor_config.json")), "{\"size\": 8}");
            assert_eq!(place.read(&format!("{result}/processor_config.json")), "{}");
            assert_eq!(towers(&base), towers(&place.path(result)), "{name} {result}");
        }
        let skipped = &place.json("four/config.json")["quantization_config"]["llm_int8_skip_modules"];
        let tower = if name == "gemma3" { "model.vision_tower" } else { "model.visual" };
        assert!(
            skipped.as_array().is_some_and(|s| s.contains(&json!(tower)) && s.contains(&json!("lm_head")))
        );
        // It opens again, and is the base quantized while loading.
        assert_eq!(eval(&place, "four", &[]), eval(&place, name, &["--quant", "nf4"]), "{name}");
        let (adapter, merged) = (eval(&place, &format!("out-{name}"), &[]), eval(&place, "merged", &[]));
        assert!((adapter - merged).abs() < 1e-5, "{name}: {adapter} {merged}");
        // A quantized tower could not be read in a folder of plain floats.
        edit_tensors(&place.path("four/model.safetensors"), |tensors| {
            let tower = tensors
                .iter()
                .find(|t| towers_of(&t.name) && t.name.ends_with("proj.weight"))
                .expect("a weight");
            let part = |part: &str| Tensor { name: format!("{}.{part}", tower.name), ..tower.clone() };
            let parts = ["absmax", "quant_state.bitsandbytes__nf4"].map(part);
            tensors.extend(parts);
        });
        let args = ["merge", &format!("out-{name}"), "--base", "four", "--output", "plain"];
        place.run(&args).refused(&[
            "proj.weight.absmax",
            "no part of the text model",
            "tower is not quantized",
        ]);
        for folder in ["merged", "four"] {
            std::fs::remove_dir_all(place.path(folder)).expect("a folder");
        }
    }
}

#[test]
fn an_adapter_has_the_keys_of_peft_and_may_have_older_ones() {
    let place = Place::with_run("lora");
    for (name, rules) in WRAPPERS {
        let base = model(name).display().to_string();
        train(&place, &base, "lora", name, &[]);
        let weights = place.path(&format!("{name}/adapter_model.safetensors"));
        let expected = eval(&place, name, &[]);
        edit_tensors(&weights, |tensors| {
            for tensor in tensors {
                let inside = tensor.name.strip_prefix("base_model.model.").expect("PEFT's prefix");
                let rest = inside.strip_prefix("model.language_model.layers.").expect("the path of today");
                if let Some((old, _)) = rules.iter().find(|(_, new)| *new == "model.language_model.") {
                    tensor.name = format!("base_model.model.{old}layers.{rest}");
                }
            }
        });
        assert_eq!(eval(&place, name, &[]), expected, "{name}");
        // PEFT must not give the tower branches of its own.
        let targets = place.json(&format!("{name}/adapter_config.json"))["target_modules"].clone();
        assert!(targets.as_str().is_some_and(|t| t.starts_with("(?!(?:model")), "{targets}");
    }
    // Layers and a pattern cannot stand together there.
    let base = model("gemma3").display().to_string();
    train(&place, &base, "lora", "some", &["method.layers_to_transform=[1]", "method.targets=[q_proj]"]);
    let targets = place.json("some/adapter_config.json")["target_modules"].clone();
    assert_eq!(targets, json!(["model.language_model.layers.1.self_attn.q_proj"]));
    // It goes on from a folder of its own.
    train(&place, &base, "lora", "further", &["train.init_adapter=gemma3"]);
}

#[test]
fn the_tower_takes_no_memory() {
    let place = Place::with_run("lora");
    for (name, _) in WRAPPERS {
        let bare = place.copy_of(&model(name), "bare");
        edit_tensors(&bare.join("model.safetensors"), |tensors| {
            tensors.retain(|t| !t.name.contains("vision_tower") && !t.name.contains("visual"));
        });
        let plan = |base: &str| {
            place.write("run.yaml", &run_file(Path::new(base), "lora"));
            let mut plan = place.run(&["--json", "plan", "run.yaml"]).json();
            plan["ways"].take()
        };
        let mut both = [plan(&model(name).display().to_string()), plan("bare")];
        let ways = both.each_mut().map(|ways| {
            let ways = ways.as_array_mut().expect("ways");
            ways.iter_mut().map(|way| way["plan"].take()).collect::<Vec<_>>()
        });
        assert!(!ways[0].is_empty() && ways[0] == ways[1], "{name}: {ways:?}");
        std::fs::remove_dir_all(bare).expect("a folder");
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let place = Place::with_run("lora");
    let changed = |name: &str, edit: &dyn Fn(&mut Vec<Tensor>)| {
        let _ = std::fs::remove_dir_all(place.path("changed"));
        let copy = place.copy_of(&model(name), "changed");
        edit_tensors(&copy.join("model.safetensors"), |tensors| edit(tensors));
        place.run(&["eval", "changed", "--data", "rows.jsonl"])
    };
    let named = |tensors: &mut Vec<Tensor>, name: &str| {
        let tensor = Tensor { name: name.into(), ..tensors[0].clone() };
        tensors.push(tensor);
    };
    // A part that this wrapper does not have.
    changed("gemma3", &|t| named(t, "audio_tower.x")).refused(&["audio_tower.x", "belong to no part"]);
    changed("qwen3_vl", &|t| named(t, "model.visuals.x")).refused(&["model.visuals.x"]);
    // One tensor under both names.
    let (old, new) = ("language_model.model.norm.weight", "model.language_model.norm.weight");
    changed("mistral3", &|t| named(t, new)).refused(&[old, new, "twice"]);
    // The message has the names of the file.
    let gone = "language_model.model.layers.1.mlp.up_proj.weight";
    changed("mistral3", &|t| t.retain(|t| t.name != gone)).refused(&[gone, "missing"]);
    changed("qwen2_5_vl", &|t| {
        t.iter_mut().filter(|t| t.name == "model.norm.weight").for_each(|t| t.shape = vec![4, 8])
    })
    .refused(&["`model.norm.weight`", "[4, 8]"]);

    // Only the text part can be chosen.
    let base = model("gemma3").display().to_string();
    place.write("run.yaml", &run_file(Path::new(&base), "lora"));
    for targets in ["[fc1]", "[q_proj, fc2]", "'.*vision_tower.*q_proj'"] {
        place
            .run(&["train", "run.yaml", "--set", &format!("method.targets={targets}")])
            .refused(&["method.targets"]);
    }
    // An adapter of the tower as well would lose that part.
    let adapter = place.copy_of(&golden("models/gemma3/adapter"), "adapter");
    edit_tensors(&adapter.join("adapter_model.safetensors"), |tensors| {
        let tower = |t: &Tensor| Tensor {
            name: t.name.replace("language_model.layers.0", "vision_tower.encoder.layers.0"),
            ..t.clone()
        };
        let more: Vec<_> = tensors.iter().filter(|t| t.name.contains("layers.0")).map(tower).collect();
        tensors.extend(more);
    });
    place.run(&["eval", &base, "--adapter", "adapter", "--data", "rows.jsonl"]).refused(&[
        "vision_tower",
        "no part of the text model",
        "target_modules",
    ]);
    let config = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut config = place.json("wrong/config.json");
        edit(&mut config);
        place.write("wrong/config.json", &config.to_string());
        place.run(&["eval", "wrong", "--data", "rows.jsonl"])
    };
    place.copy_of(&model("mistral3"), "wrong");
    config(&|c| c["text_config"]["model_type"] = json!("mamba2")).refused(&[
        "text_config",
        "mamba2",
        "ministral3",
    ]);
    config(&|c| c["text_config"] = json!(3)).refused(&["text_config", "not an object"]);
    config(&|c| c["text_config"] = json!(null)).refused(&["text_config", "missing"]);
}
