//! Experts that a base holds in MXFP4: trained beside where they lie, and written back as they were unless they changed.

use std::collections::BTreeMap;
use std::path::Path;

use super::helper::{Place, model, run_file};
use super::wrappers::{eval, tensors, train};

fn experts(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let mut all = tensors(folder);
    all.retain(|name, _| name.contains(".mlp.experts."));
    all
}

#[test]
fn packed_experts_stay_as_they_are_where_nothing_was_merged() {
    let place = Place::with_run("lora");
    let base = model("gpt_oss_mxfp4");
    train(&place, &base.display().to_string(), "lora", "attention", &["train.precision=f32"]);
    place.run(&["merge", "attention", "--dtype", "f32", "--output", "merged"]).ok();
    let (before, after) = (experts(&base), experts(&place.path("merged")));
    assert!(before.keys().any(|name| name.ends_with("gate_up_proj_blocks")), "{:?}", before.keys());
    assert_eq!(before, after);
    assert_eq!(place.json("merged/config.json")["quantization_config"]["quant_method"], "mxfp4");
    let (beside, merged) = (eval(&place, "attention", &[]), eval(&place, "merged", &[]));
    assert!((beside - merged).abs() < 1e-5, "{beside} {merged}");
}

#[test]
fn experts_that_changed_become_floats() {
    let place = Place::with_run("lora");
    let base = model("gpt_oss_mxfp4").display().to_string();
    let set = ["train.precision=f32", "method.target_parameters=[experts.down_proj]", "train.lr=0.05"];
    train(&place, &base, "lora", "experts", &set);
    place.run(&["merge", "experts", "--dtype", "f32", "--output", "merged"]).ok();
    let found = experts(&place.path("merged"));
    let shape = |part: &str| found[&format!("model.layers.0.mlp.experts.{part}")].0.clone();
    assert_eq!([shape("gate_up_proj"), shape("down_proj")], [[4, 32, 128], [4, 64, 32]]);
    assert!(found.keys().all(|name| !name.ends_with("_blocks") && !name.ends_with("_scales")));
    assert!(place.json("merged/config.json").get("quantization_config").is_none());
    let (beside, merged) = (eval(&place, "experts", &[]), eval(&place, "merged", &[]));
    assert!((beside - merged).abs() < 1e-5, "{beside} {merged}");
    assert!((beside - eval(&place, &base, &[])).abs() > 1e-4, "the experts were trained");
}

#[test]
fn all_of_a_model_with_stacked_experts_is_trained_and_written() {
    let place = Place::with_run("lora");
    train(&place, &model("gpt_oss").display().to_string(), "full", "whole", &["train.precision=f32"]);
    let (before, after) = (tensors(&model("gpt_oss")), tensors(&place.path("whole")));
    let names = |all: &BTreeMap<String, (Vec<usize>, Vec<u8>)>| {
        all.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect::<Vec<_>>()
    };
    assert_eq!(names(&before), names(&after));
    for part in ["experts.gate_up_proj", "experts.down_proj_bias", "router.bias"] {
        let name = format!("model.layers.1.mlp.{part}");
        assert_ne!(before[&name], after[&name], "{name} was trained");
    }
    eval(&place, "whole", &[]);
}

#[test]
fn damaged_blocks_are_refused() {
    let place = Place::with_run("lora");
    let copy = place.copy_of(&model("gpt_oss_mxfp4"), "copy");
    super::helper::edit_tensors(&copy.join("model.safetensors"), |tensors| {
        tensors.retain(|t| !t.name.ends_with("layers.0.mlp.experts.down_proj_scales"));
    });
    place.write("run.yaml", &run_file(&copy, "lora"));
    place.run(&["train", "run.yaml"]).refused(&["down_proj_scales", "missing"]);
}

#[test]
fn linears_in_fp8_stay_as_they_are_where_nothing_was_merged() {
    let place = Place::with_run("lora");
    let base = model("qwen3_fp8");
    let set = ["train.precision=f32", "method.targets=[q_proj]", "train.lr=0.05"];
    train(&place, &base.display().to_string(), "lora", "run", &set);
    place.run(&["merge", "run", "--dtype", "f32", "--output", "merged"]).ok();
    let (before, after) = (tensors(&base), tensors(&place.path("merged")));
    let of = |name: &str| format!("model.layers.0.self_attn.{name}");
    for kept in ["k_proj.weight", "k_proj.weight_scale_inv", "o_proj.weight"] {
        assert_eq!(before[&of(kept)], after[&of(kept)], "{kept}");
    }
    assert!(!after.contains_key(&of("q_proj.weight_scale_inv")));
    assert_eq!(after[&of("q_proj.weight")].1.len(), 4 * before[&of("q_proj.weight")].1.len(), "f32 now");
    let about = &place.json("merged/config.json")["quantization_config"];
    let plain = about["modules_to_not_convert"].as_array().unwrap();
    assert!(plain.contains(&of("q_proj").into()) && plain.contains(&"lm_head".into()), "{about}");
    let (beside, merged) = (eval(&place, "run", &[]), eval(&place, "merged", &[]));
    assert!((beside - merged).abs() < 1e-5, "{beside} {merged}");
}
