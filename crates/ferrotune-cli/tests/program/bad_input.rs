//! What is wrong is refused: by name, with a hint, before anything is written.

use std::path::Path;

use serde_json::{Value, json};

use super::helper::{Out, Place, edit_tensors, model, names};

/// `train run.yaml` with overrides, which must be refused and leave no file behind.
#[track_caller]
fn refused(place: &Place, overrides: &[&str], words: &[&str]) -> Out {
    let before = names(&place.path("."));
    let mut args = vec!["train", "run.yaml"];
    args.extend(overrides.iter().flat_map(|o| ["--set", o]));
    let out = place.run(&args).refused(words);
    assert_eq!(names(&place.path(".")), before, "a refused run writes nothing");
    out
}

/// Whether the last hint holds a text.
#[track_caller]
fn hints(out: &Out, text: &str) {
    let hint = out.stderr.lines().find(|l| l.starts_with("hint: ")).unwrap_or_default();
    assert!(hint.contains(text), "`{text}` is not in {hint}");
}

#[test]
fn missing_files() {
    let place = Place::with_run("lora");
    place.run(&["train", "nowhere.yaml"]).refused(&["nowhere.yaml"]);
    place.run(&["preview", "nowhere.yaml"]).refused(&["nowhere.yaml"]);
    refused(&place, &["data.train=nowhere.jsonl"], &["nowhere.jsonl"]);
    refused(&place, &["data.eval=nowhere.jsonl"], &["nowhere.jsonl"]);
    refused(&place, &["model.base=./nowhere"], &["nowhere"]);
    refused(&place, &["model.base=./nowhere.gguf"], &["nowhere.gguf"]);
    refused(&place, &["model.base="], &["model.base"]);
    refused(&place, &["model.base=rows.jsonl"], &["rows.jsonl"]);
    refused(&place, &["train.init_adapter=nowhere"], &["nowhere"]);
    for verb in [
        &["generate", "./nowhere", "--prompt", "x"][..],
        &["chat", "./nowhere"],
        &["eval", "./nowhere", "--data", "rows.jsonl"],
    ] {
        place.run(verb).refused(&["nowhere"]);
    }
    let base = model("mistral").display().to_string();
    place.run(&["generate", &base, "--adapter", "nowhere", "--prompt", "x"]).refused(&["nowhere"]);
    place.run(&["eval", &base, "--data", "nowhere.jsonl"]).refused(&["nowhere.jsonl"]);
    place.run(&["merge", "nowhere", "--output", "merged"]).refused(&["nowhere"]);
    place.run(&["merge", &base, "--output", "merged"]).refused(&[&base, "not an adapter folder"]);
    assert!(!place.path("merged").exists());
}

#[test]
fn keys_and_values_of_the_run_file() {
    let place = Place::with_run("lora");
    for (change, words, hint) in [
        ("train.learning_rat=1", &["train.learning_rat"][..], "learning_rate"),
        ("trian.lr=1", &["trian"], "train"),
        ("method.rnak=4", &["method.rnak"], "rank"),
        ("train.lr=fast", &["train.lr", "fast"], ""),
        ("train.lr=-1", &["train.lr", "-1"], ""),
        ("train.epochs=0", &["train.epochs"], ""),
        ("train.epochs=1.5", &["train.epochs", "1.5"], ""),
        ("train.threads=0", &["train.threads"], ""),
        ("train.precision=f17", &["train.precision", "f17"], "f32"),
        ("method.kind=lorra", &["method.kind", "lorra"], "lora"),
        ("method.quant.type=int3", &["method.quant.type", "int3"], "int8"),
        ("method.quant.block=65", &["method.quant.block", "65"], ""),
        ("method.rank=0", &["method.rank"], ""),
        ("method.dropout=1", &["method.dropout"], ""),
        ("data.max_length=1", &["data.max_length"], ""),
        ("data.eval=150%", &["data.eval"], ""),
        ("train.memory=lots", &["train.memory", "lots"], ""),
        ("train.memory=1MB", &["the run needs"], "train.micro_batch_tokens"),
        ("nonsense", &["nonsense"], "="),
        ("method.targets=[q_porj]", &["q_porj"], "q_proj"),
        ("method.targets=q_proj", &["q_proj"], "regular expression"),
        ("method.targets=[]", &["method.targets"], ""),
        ("method.targets='('", &["method.targets", "("], "names linears"),
        ("method.targets='.*\\.9\\..*'", &["matches no module"], ""),
    ] {
        let out = refused(&place, &[change], words);
        hints(&out, hint);
    }
    let good = place.read("run.yaml");
    for (text, words) in [
        (good.replace("epochs", "epoch"), &["run.yaml", "train.epoch"][..]),
        (good.replace("data: {", "data: ["), &["run.yaml"]),
        (format!("{good}data: {{ train: rows.jsonl }}\n"), &["run.yaml", "data"]),
        ("just a text".to_string(), &["run.yaml"]),
        (String::new(), &["run.yaml", "empty"]),
    ] {
        place.write("run.yaml", &text);
        refused(&place, &[], words);
    }
}

#[test]
fn rows() {
    let place = Place::with_run("lora");
    let good = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
    for (bad, words) in [
        ("{\"messages\": [", &["not valid JSON"][..]),
        ("[1, 2]", &["expected an object"]),
        ("{\"messages\": 3}", &["messages"]),
        ("{\"messages\": []}", &["messages"]),
        ("{\"messages\": [{\"role\": \"user\", \"content\": 3}]}", &["content"]),
        ("{\"messages\": [{\"content\": \"no role\"}]}", &["role"]),
        ("{\"words\": \"of no shape\"}", &["words"]),
        ("{}", &[]),
    ] {
        place.write("rows.jsonl", &format!("{good}\n{good}\n{bad}\n"));
        let mut all = vec!["rows.jsonl:3"];
        all.extend(words);
        refused(&place, &[], &all);
        let base = model("mistral").display().to_string();
        place.run(&["eval", &base, "--data", "rows.jsonl"]).refused(&all);
    }
    for (bad, words) in [
        ("{\"text\": \"\"}", &["`text`"][..]),
        ("{\"text\": 5}", &["`text`"]),
        ("{\"title\": \"no text\"}", &["title"]),
        ("{\"input_ids\": [1, 2], \"labels\": [1]}", &["labels"]),
        ("{\"input_ids\": [1, 999999], \"labels\": [1, 2]}", &["999999"]),
        ("{\"input_ids\": [1, -5], \"labels\": [1, 2]}", &["input_ids"]),
        ("{\"prompt\": 4, \"completion\": \"x\"}", &["prompt"]),
        ("{\"instruction\": [], \"output\": \"x\"}", &["instruction"]),
    ] {
        place.write("rows.jsonl", &format!("{bad}\n"));
        let mut all = vec!["rows.jsonl:1"];
        all.extend(words);
        refused(&place, &[], &all);
    }
    place.write("rows.jsonl", "");
    refused(&place, &[], &["rows.jsonl", "no rows"]);
    std::fs::write(place.path("rows.jsonl"), [b'{', 0xff, 0xfe, b'}']).expect("bytes");
    refused(&place, &[], &["rows.jsonl:1", "UTF-8"]);
}

#[test]
fn nothing_supervised() {
    let place = Place::with_run("lora");
    place.write("rows.jsonl", &format!("{}\n", json!({"messages": [{"role": "user", "content": "a"}]})));
    refused(&place, &[], &["data.train", "no supervised token"]);
    place.write("rows.jsonl", "{\"input_ids\": [5, 6, 7], \"labels\": [-100, -100, -100]}\n");
    refused(&place, &[], &["no supervised token"]);
    let base = model("mistral").display().to_string();
    place.run(&["eval", &base, "--data", "rows.jsonl"]).refused(&["no supervised token"]);
    place.write("rows.jsonl", &super::helper::chats(3));
    place.run(&["eval", &base, "--data", "rows.jsonl", "--limit", "0"]).refused(&["--limit"]);
    refused(&place, &["data.max_length=4"], &["no supervised token"]);
}

/// `train` on a copy of the tiny model that `damage` changed.
#[track_caller]
fn damaged(damage: impl FnOnce(&Path), words: &[&str]) -> Out {
    let place = Place::with_run("lora");
    let copy = place.copy_of(&model("llama3_rope"), "copy");
    damage(&copy);
    refused(&place, &["model.base=copy"], words)
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&path).expect("the file")).expect("JSON");
    edit(&mut config);
    std::fs::write(path, config.to_string()).expect("the file");
}

#[test]
fn model_folders() {
    let weights = "model.safetensors";
    let length = std::fs::metadata(model("llama3_rope").join(weights)).expect("weights").len();
    for keep in [0, 4, 100, 3000, length / 2, length - 1] {
        let cut = |folder: &Path| {
            let file = std::fs::File::options().write(true).open(folder.join(weights)).expect("weights");
            file.set_len(keep).expect("a cut");
        };
        hints(&damaged(cut, &[weights]), "again");
    }
    let q = "model.layers.1.self_attn.q_proj.weight";
    let of = |t: &super::helper::Tensor| t.name == q;
    damaged(|f| edit_tensors(&f.join(weights), |all| all.retain(|t| !of(t))), &[q, "missing"]);
    damaged(
        |f| {
            edit_tensors(&f.join(weights), |all| {
                all.iter_mut().filter(|t| of(t)).for_each(|t| t.shape = vec![32, 128]);
            });
        },
        &[weights, q, "[32, 128]", "[64, 64]"],
    );
    let extra = "model.layers.9.self_attn.q_proj.weight";
    damaged(
        |f| {
            edit_tensors(&f.join(weights), |all| {
                let copy = all.iter().find(|t| of(t)).cloned().expect("q_proj");
                all.push(super::helper::Tensor { name: extra.into(), ..copy });
            });
        },
        &["copy", extra],
    );
    damaged(
        |f| {
            edit_tensors(&f.join(weights), |all| {
                all.iter_mut().filter(|t| of(t)).for_each(|t| t.dtype = safetensors::Dtype::I32)
            })
        },
        &[weights, q, "I32"],
    );
    let unknown =
        damaged(|f| edit_config(f, |c| c["model_type"] = "mamba7".into()), &["config.json", "mamba7"]);
    hints(&unknown, "llama");
    damaged(|f| edit_config(f, |c| c["hidden_size"] = "wide".into()), &["config.json", "hidden_size"]);
    damaged(
        |f| edit_config(f, |c| c["num_attention_heads"] = 0.into()),
        &["config.json", "num_attention_heads"],
    );
    damaged(|f| edit_config(f, |c| c["num_hidden_layers"] = 3.into()), &["model.layers.2"]);
    damaged(|f| std::fs::write(f.join("config.json"), "{").expect("a file"), &["config.json", "JSON"]);
    for name in ["config.json", weights, "tokenizer.json"] {
        damaged(|f| std::fs::remove_file(f.join(name)).expect("a file"), &["copy"]);
    }
    damaged(|f| std::fs::write(f.join("tokenizer.json"), "{}").expect("a file"), &["tokenizer"]);
    damaged(
        |f| std::fs::write(f.join("chat_template.jinja"), "{% for %}").expect("a file"),
        &["chat template"],
    );
}

#[test]
fn adapters() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1", "--set", "output.dir=good"]).ok();
    // What a run file states otherwise than an adapter is refused before its tensors are read.
    place.write("run.yaml", &place.read("run.yaml").replace(", rank: 4, alpha: 8", ""));
    let base = model("llama3_rope").display().to_string();
    let weights = "adapter_model.safetensors";
    let edit = |folder: &Path, key: &str, value: Value| {
        let path = folder.join("adapter_config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("it")).expect("JSON");
        config[key] = value;
        std::fs::write(path, config.to_string()).expect("it");
    };
    let try_all = |words: &[&str]| {
        refused(&place, &["train.init_adapter=bad"], words);
        place.run(&["generate", &base, "--adapter", "bad", "--prompt", "x"]).refused(words);
        place.run(&["merge", "bad", "--output", "merged", "--base", &base]).refused(words);
        assert!(!place.path("merged").exists());
        let out = place.run_with(&["chat", &base, "--max-new-tokens", "2"], "/adapter bad\nhello\n").ok();
        assert!(words.iter().all(|w| out.stderr.contains(w)), "{out:#?}");
        assert_eq!(out.stdout.lines().count(), 1, "the conversation goes on: {out:#?}");
    };
    let adapter = |damage: &dyn Fn(&Path)| {
        let _ = std::fs::remove_dir_all(place.path("bad"));
        let bad = place.path("bad");
        std::fs::create_dir(&bad).expect("a folder");
        for name in ["adapter_config.json", weights] {
            std::fs::copy(place.path("good").join(name), bad.join(name)).expect("a copy");
        }
        damage(&bad);
    };
    for (key, value) in [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("trainable_token_indices", json!([3])),
        ("use_qalora", json!(true)),
        ("peft_type", json!("IA3")),
        ("r", json!("four")),
        ("target_modules", json!(["qkv_proj"])),
    ] {
        adapter(&|f| edit(f, key, value.clone()));
        try_all(&["adapter_config.json", key]);
    }
    adapter(&|f| edit(f, "rank_pattern", json!({"q_proj": 2})));
    try_all(&[weights, "q_proj.lora_A.weight", "[4, 64]", "[2, 64]"]);
    adapter(&|f| edit(f, "init_lora_weights", json!("pissa_niter_4")));
    try_all(&["adapter_config.json", "init_lora_weights", "pissa_niter_4"]);
    // Of another base of the same shapes: it can be meant, so it is said.
    let other = model("mistral").display().to_string();
    let says = |args: &[&str], input: &str| {
        let out = place.run_with(args, input).ok();
        assert!(out.stderr.contains("warning: the adapter in good was trained beside"), "{out:#?}");
    };
    says(&["generate", &other, "--adapter", "good", "--prompt", "x", "--max-new-tokens", "2"], "");
    says(&["merge", "good", "--base", &other, "--output", "merged"], "");
    says(&["chat", &other], "/adapter good");
    std::fs::remove_dir_all(place.path("merged")).expect("the merged model");
    let own = place.run(&["generate", "good", "--prompt", "x", "--max-new-tokens", "2"]).ok();
    assert!(!own.stderr.contains("warning"), "{own:#?}");
    // Of another base: a rank, a layer, a width that are not the model's.
    adapter(&|f| edit(f, "r", json!(8)));
    try_all(&[weights, "lora_A", "[4, 64]"]);
    let elsewhere = |name: &str| name.replace("layers.0", "layers.7").replace("layers.1", "layers.7");
    adapter(&|f| edit_tensors(&f.join(weights), |all| all[0].name = elsewhere(&all[0].name)));
    try_all(&[weights, "missing"]);
    adapter(&|f| {
        edit_tensors(&f.join(weights), |all| {
            let extra = all[0].clone();
            all.push(super::helper::Tensor { name: elsewhere(&extra.name), ..extra });
        });
    });
    try_all(&[weights, "layers.7"]);
    adapter(&|f| {
        let file = std::fs::File::options().write(true).open(f.join(weights)).expect("weights");
        file.set_len(5000).expect("a cut");
    });
    try_all(&[weights]);
    adapter(&|f| std::fs::remove_file(f.join(weights)).expect("weights"));
    try_all(&[weights]);
}

#[test]
fn options() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1", "--set", "output.dir=good"]).ok();
    for (args, words) in [
        (&["generate", "good", "--prompt", "", "--raw"][..], &["--prompt"][..]),
        (&["eval", "good", "--data", "rows.jsonl", "--max-length", "1"], &["--max-length"]),
        (&["train", "run.yaml", "--threads", "0"], &["--threads"]),
    ] {
        place.run(args).refused(words);
        assert_eq!(names(&place.path(".")), ["good", "rows.jsonl", "run.yaml"]);
    }
    // Wrong usage is code 2, as everywhere.
    for (args, words) in [
        (&["train", "run.yaml", "--isa", "sse9"][..], &["--isa", "sse9", "avx2", "neon"][..]),
        (&["generate", "good", "--prompt", "x", "--quant", "int1"], &["--quant", "int1", "int8", "f32"]),
        (&["generate", "good", "--prompt", "x", "--precision", "f8"], &["--precision", "f8", "bf16"]),
        (&["merge", "good", "--output", "m", "--onto", "sand"], &["--onto", "sand", "trained, stored"]),
        (&["merge", "good", "--output", "m", "--dtype", "f8"], &["--dtype", "f8", "f16"]),
        (&["preview", "run.yaml", "--color", "mauve"], &["--color", "mauve", "auto, always, never"]),
        (&["quickstart", "--method", "lorra"], &["--method", "lorra", "'lora'"]),
        (&["quantize", "good", "--output", "q", "--type", "nf5"], &["--type", "nf5", "'nf4'"]),
    ] {
        place.run(args).misused(words);
        assert_eq!(names(&place.path(".")), ["good", "rows.jsonl", "run.yaml"]);
    }
    assert_eq!(place.run(&["train"]).code, Some(2));
    assert_eq!(place.run(&["eval", "good"]).code, Some(2), "eval without rows");
    assert_eq!(place.run(&["fly"]).code, Some(2));
}

#[test]
fn a_folder_with_results_is_not_touched() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=2"]).ok();
    let content = || {
        (
            names(&place.path("out")),
            place.read("out/metrics.jsonl"),
            place.bytes("out/adapter_model.safetensors"),
        )
    };
    let before = content();
    let out = place.run(&["train", "run.yaml"]).refused(&["out", "holds a run already"]);
    hints(&out, "--resume");
    assert_eq!(content(), before);
    place.run(&["merge", "out", "--output", "merged"]).ok();
    place.run(&["merge", "out", "--output", "merged"]).refused(&["merged", "exists already"]);
}
