//! `combine` through the binary: PEFT's result on disk, loadable beside the base; what is refused.

use std::path::Path;

use ferrotune::formats::adapter::AdapterFile;

use super::helper::{Place, chats, edit_tensors, golden, model};

fn input(name: &str) -> String {
    golden(&format!("algebra/inputs/{name}")).display().to_string()
}

/// Largest difference of two adapters' tensors, which must have the same names.
fn difference(found: &Path, expected: &Path) -> f32 {
    let (found, expected) = (AdapterFile::read(found).unwrap(), AdapterFile::read(expected).unwrap());
    assert_eq!(found.config.lora.alpha, expected.config.lora.alpha);
    assert_eq!(found.config.lora.targets, expected.config.lora.targets);
    let pairs = found.tensors.iter().zip(&expected.tensors);
    let worst = pairs.map(|(f, e)| {
        assert_eq!((&f.name, &f.shape), (&e.name, &e.shape));
        f.values.iter().zip(&e.values).fold(0.0f32, |m, (f, e)| m.max((f - e).abs()))
    });
    assert_eq!(found.tensors.len(), expected.tensors.len());
    worst.fold(0.0, f32::max)
}

#[test]
fn result_is_that_of_peft_and_loads_beside_the_base() {
    let place = Place::new();
    let (a, b, c) = (input("a"), input("b"), input("c"));
    let args = ["combine", &a, &b, "--weights", "0.7,0.4", "--method", "ties", "--density", "0.4"];
    let made = place.run(&[&args[..], &["--output", "ties", "--json"]].concat()).json();
    assert_eq!((made["method"].as_str(), made["rank"].as_u64()), (Some("ties"), Some(8)));
    assert!(difference(&place.path("ties"), &golden("algebra/ties_ab")) < 1e-6);

    place.run(&["combine", &a, &b, "--weights", "1,-0.5", "--method", "linear", "-o", "negative"]).ok();
    assert!(difference(&place.path("negative"), &golden("algebra/linear_ab_negative")) < 1e-6);
    place.run(&["combine", &a, &b, &c, "--weights", "0.5,0.3,0.2", "-o", "cat"]).ok();
    assert!(difference(&place.path("cat"), &golden("algebra/cat_abc")) < 1e-6);

    let dare = |seed: &str, output: &str| {
        let args =
            ["combine", &a, &b, "--method", "dare_linear", "--density", "0.5", "--seed", seed, "-o", output];
        place.run(&args).ok();
        place.bytes(&format!("{output}/adapter_model.safetensors"))
    };
    let first = dare("1", "dare1");
    assert!(first == dare("1", "dare1again"), "the seed alone decides");
    assert!(first != dare("2", "dare2"));

    place.write("rows.jsonl", &chats(6));
    let base = model("llama3_rope").display().to_string();
    let loss = |adapter: &str| {
        let args =
            ["eval", &base, "--adapter", adapter, "--data", "rows.jsonl", "--precision", "f32", "--json"];
        place.run(&args).eval_loss()
    };
    place.run(&["combine", &a, &b, &c, "--weights", "0.5,0.3,0.2", "--exact", "-o", "exact"]).ok();
    let (cat, exact) = (loss("cat"), loss("exact"));
    assert!((cat - exact).abs() < 1e-5, "{cat} {exact}");
    assert!((loss("ties") - cat).abs() > 1e-3);
    // Taken from itself an adapter leaves nothing behind.
    place.run(&["combine", &a, &a, "--weights", "1,-1", "--exact", "-o", "nothing"]).ok();
    let alone = place.run(&["eval", &base, "--data", "rows.jsonl", "--precision", "f32", "--json"]).json();
    assert!((loss("nothing") - alone["eval_loss"].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn an_mlx_adapter_becomes_peft() {
    let place = Place::new();
    let peft = golden("models/llama3_rope/adapter");
    let folder = place.copy_of(&peft, "mlx");
    std::fs::rename(folder.join("adapter_model.safetensors"), folder.join("adapters.safetensors")).unwrap();
    edit_tensors(&folder.join("adapters.safetensors"), |tensors| {
        for t in tensors {
            let (rows, cols) = (t.shape[0], t.shape[1]);
            let at = |i: usize| t.data[4 * i..][..4].to_vec();
            t.data = (0..cols).flat_map(|c| (0..rows).flat_map(move |r| at(r * cols + c))).collect();
            t.shape = vec![cols, rows];
            let name = t.name.trim_start_matches("base_model.model.").replace(".weight", "");
            t.name = name.replace("lora_A", "lora_a").replace("lora_B", "lora_b");
        }
    });
    place.write(
        "mlx/adapter_config.json",
        r#"{"model": "llama3_rope", "fine_tune_type": "lora", "num_layers": 2,
            "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0}}"#,
    );
    place.run(&["combine", "mlx", "--output", "peft", "--json"]).json();
    let (found, expected) =
        (AdapterFile::read(&place.path("peft")).unwrap(), AdapterFile::read(&peft).unwrap());
    assert_eq!(found.tensors, expected.tensors);
    assert_eq!((found.config.lora.rank, found.config.lora.alpha), (8, 16.0));

    place.write("rows.jsonl", &chats(6));
    let base = model("llama3_rope").display().to_string();
    let loss = |adapter: &str| {
        place.run(&["eval", &base, "--adapter", adapter, "--data", "rows.jsonl", "--json"]).json()["eval_loss"].clone()
    };
    assert_eq!(loss("mlx"), loss(&peft.display().to_string()));
    assert_eq!(loss("mlx"), loss("peft"));
    let other = model("mistral").display().to_string();
    place.write(
        "mlx/adapter_config.json",
        &place.read("mlx/adapter_config.json").replace("\"rank\": 8", "\"rank\": 4"),
    );
    let args = ["eval", &other, "--adapter", "mlx", "--data", "rows.jsonl"];
    place.run(&args).refused(&["mlx/adapters.safetensors", "lora_a", "is 4"]);
}

#[test]
fn what_cannot_be_combined_is_refused() {
    let place = Place::new();
    let (a, b, c) = (input("a"), input("b"), input("c"));
    let refused = |args: &[&str], words: &[&str]| {
        let args = [&["combine", "-o", "out"], args].concat();
        let out = place.run(&args).refused(words);
        assert!(!place.path("out").exists());
        out
    };
    place.run(&["combine", "-o", "out", &a, &b, "--method", "tie"]).misused(&["--method", "tie", "'ties'"]);
    refused(&[&a, &b, "--method", "ties"], &["--density", "ties"]);
    refused(&[&a, &b, "--method", "ties", "--density", "1.5"], &["--density", "1.5"]);
    refused(&[&a, &b, "--method", "dare_linear", "--density", "0"], &["--density", "0"]);
    refused(&[&a, &b, "--method", "cat", "--density", "0.5"], &["--density", "cat"]);
    place.run(&["combine", "-o", "out", &a, &b, "--majority-sign", "most"]).misused(&[
        "--majority-sign",
        "most",
        "total, frequency",
    ]);
    refused(&[&a, &b, "--weights", "1"], &["--weights", "1 found", "2 adapters"]);
    refused(&[&a, &b, "--weights", "1,nan"], &["--weights", "NaN"]);
    refused(&[&a, &c, "--method", "linear"], &["its rank is 4", "is 8", "--exact"]);
    refused(&[&a, &c, "--method", "ties", "--density", "0.5"], &["its rank is 4", "ties_svd"]);
    refused(&[&a, &b, "--exact", "--method", "ties", "--density", "0.5"], &["--exact", "ties_svd"]);
    refused(&[&a, &b, "--exact", "--rank", "3"], &["--rank", "rank 16"]);
    refused(&[&a, &b, "--method", "cat", "--rank", "3"], &["--rank", "cat"]);
    refused(&[&a, "nowhere"], &["nowhere", "not an adapter folder"]);

    let other = place.copy_of(&golden("algebra/inputs/b"), "other");
    let config = place.read("other/adapter_config.json");
    place.write("other/adapter_config.json", &config.replace("\"llama3_rope\"", "\"another\""));
    refused(&[&a, "other"], &["other", "`another`", "`llama3_rope`", "--base"]);
    place.run(&["combine", &a, "other", "--base", "named", "-o", "same"]).ok();
    assert_eq!(place.json("same/adapter_config.json")["base_model_name_or_path"], "named");
    place.run(&["combine", &a, &b, "-o", "same"]).refused(&["same", "exists already"]);

    place.write("other/adapter_config.json", &config.replace("\"use_dora\": false", "\"use_dora\": true"));
    refused(&[&a, "other"], &["other", "use_dora"]);
    place.write("other/adapter_config.json", &config);
    edit_tensors(&other.join("adapter_model.safetensors"), |tensors| {
        let t = tensors.iter_mut().find(|t| t.name.contains("lora_A")).unwrap();
        t.data.truncate(t.data.len() / 2);
        t.shape[1] /= 2;
    });
    refused(&[&a, "other"], &["other", "lora_A", "64"]);
}
