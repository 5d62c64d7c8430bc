//! `plan` through the binary: what it foresees is what `train` then plans, and needs no weight.

use serde_json::Value;

use super::helper::{Place, golden, model};

/// The way to run of a method under the first policy.
fn way<'a>(plan: &'a Value, method: &str) -> &'a Value {
    let ways = plan["ways"].as_array().unwrap();
    ways.iter().find(|w| w["method"] == method).unwrap_or_else(|| panic!("no {method} in {plan}"))
}

/// What a run says before its first step.
fn started(place: &Place, args: &[&str]) -> Value {
    let out = place.run(&[&["--json", "train", "run.yaml"], args].concat()).ok();
    let events = out.stderr.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    events.into_iter().find(|e| e["event"] == "start").unwrap()
}

#[test]
fn what_is_foreseen_is_what_a_run_plans() {
    for (kind, more) in [
        ("full", ""),
        ("lora", "method.dora=true"),
        ("qlora", "method.quant.type=nf4"),
        ("qlora", "model.embeddings=nf4"),
        ("lora", "model.embeddings=int8"),
    ] {
        let place = Place::with_run(kind);
        let more = if more.is_empty() { "train.seed=0" } else { more };
        let set = ["--set", more, "--set", "train.optimizer=adamw_8bit"];
        let plan = place.run(&[&["--json", "plan", "run.yaml"], &set[..]].concat()).json();
        let start = started(&place, &set);
        let foreseen = &way(&plan, kind)["plan"];
        for part in ["base", "trainable", "gradients", "optimizer", "activations", "workspace", "program"] {
            assert_eq!(foreseen[part], start["plan"][part], "{kind}: {part}");
        }
        assert!(way(&plan, kind)["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
}

#[test]
fn a_configuration_alone_is_enough() {
    let place = Place::new();
    std::fs::create_dir(place.path("only")).unwrap();
    std::fs::copy(model("llama3_rope").join("config.json"), place.path("only/config.json")).unwrap();
    let out = place.run(&["plan", "only", "--set", "data.max_length=256"]).ok();
    for word in ["full", "lora", "qlora", "recompute", "tokens/s", "* full:"] {
        assert!(out.stdout.contains(word), "no {word} in {}", out.stdout);
    }
    // A larger model than any machine has, whose matrices are never touched.
    let config = place.read("only/config.json");
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("hidden_size", 8192),
        ("intermediate_size", 22016),
        ("num_hidden_layers", 80),
        ("num_attention_heads", 64),
        ("num_key_value_heads", 64),
        ("head_dim", 128),
        ("vocab_size", 32000),
    ] {
        config[key] = value.into();
    }
    place.write("only/config.json", &config.to_string());
    let plan = place.run(&["--json", "plan", "only", "--memory", "24GiB"]).json();
    assert_eq!(plan["parameters"].as_f64().map(|n| (n / 1e9).round()), Some(65.0));
    assert_eq!(way(&plan, "full")["fits"], false);
    let ways = plan["ways"].as_array().unwrap();
    let fits = |w: &&Value| w["method"] == "qlora" && w["fits"] == true;
    assert!(ways.iter().filter(fits).all(|w| w["streamed"] == true), "{plan}");
    assert_eq!(plan["advice"]["way"]["method"], "qlora", "{plan}");
    assert_eq!(plan["advice"]["way"]["fits"], true, "{plan}");
}

#[test]
fn a_configuration_that_says_it_is_quantized_is_planned_so() {
    let place = Place::with_run("qlora");
    for name in ["llama_nf4_dq", "llama_fp4", "llama_int8"] {
        let whole = golden(&format!("quant/{name}/model"));
        std::fs::create_dir(place.path(name)).unwrap();
        std::fs::copy(whole.join("config.json"), place.path(&format!("{name}/config.json"))).unwrap();
        let plan = place.run(&["--json", "plan", name]).json();
        let base = |plan: &Value| way(plan, "qlora")["plan"]["base"].as_u64().unwrap();
        let folder = place.copy_of(&whole, &format!("{name}-whole"));
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(model("llama3_rope").join(file), folder.join(file)).unwrap();
        }
        let expected = place.run(&["--json", "plan", &folder.display().to_string()]).json();
        assert_eq!(base(&plan), base(&expected), "{name}");
        let dense = place.run(&["--json", "plan", name, "--set", "method.quant.type=nf4"]).json();
        assert!(base(&plan) >= base(&dense), "{name}");
    }
}

#[test]
fn a_budget_decides_how_a_run_is_made() {
    let place = Place::with_run("lora");
    let plan = place.run(&["--json", "plan", "run.yaml"]).json();
    let peak = |policy: &str| {
        let ways = plan["ways"].as_array().unwrap();
        let fits = |w: &&Value| w["method"] == "lora" && w["activations"] == policy && w["streamed"] == false;
        ways.iter().find(fits).unwrap()["peak_bytes"].as_u64().unwrap()
    };
    assert!(peak("keep") > peak("recompute"));
    let less = (peak("keep") - 1).to_string();
    let start = started(&place, &["--memory", &less]);
    assert!(start["activations"] != "keep" || start["streamed"] == true, "{start}");
    let least = place.run(&[
        "train",
        "run.yaml",
        "--memory",
        &less,
        "--set",
        "train.stream=never",
        "--json",
        "--set",
        "output.dir=b",
    ]);
    let start = least.ok().stderr;
    assert!(start.contains("\"activations\":\"lean\",\"kept_layers\":1"), "one of two layers keeps: {start}");
    let set = ["--set", "method.kind=qlora", "--set", "method.quant.type=nf4", "--set", "output.dir=nothing"];
    let refused = place.run(&[&["train", "run.yaml", "--memory", "1MiB"], &set[..]].concat());
    refused.refused(&["needs", "are there"]);
    assert!(!place.path("nothing").exists() && !place.bases().exists(), "nothing is quantized or written");
}
