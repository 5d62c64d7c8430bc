//! A resumed run is the run that was begun, and a run that learns nothing says so.

use super::helper::{Place, chats, model, run_file};

#[test]
fn other_settings_are_refused_by_name_or_accepted_and_recorded() {
    let place = Place::with_run("lora");
    let begin = ["train", "run.yaml", "--set", "train.max_steps=3"];
    place.run(&begin).ok();
    let resume = |more: &[&str]| place.run(&[&begin[..], &["--resume"], more].concat());
    place.run(&["combine", "out", "--output", "adapter"]).ok();
    for set in [
        "train.lr=0.02",
        "train.schedule=cosine",
        "train.batch_rows=5",
        "train.seed=7",
        "data.shuffle=false",
        "method.alpha=16",
        "method.rslora=true",
        "method.dropout=0.1",
        "train.optimizer=adamw8bit",
        "train.weight_decay=0.1",
        "train.betas=[0.8, 0.99]",
        "train.precision=bf16",
        "method.kind=qlora",
        "method.targets=[q_proj, v_proj]",
        "train.epochs=6",
        "data.packing=false",
        "train.max_grad_norm=0.5",
        "train.warmup=2",
        "train.max_steps=4",
    ] {
        let key = set.split('=').next().expect("a key");
        resume(&["--set", set]).refused(&["out/checkpoints/step-3", key, " before, ", "--accept-changes"]);
    }
    assert_eq!(place.json("out/receipt.json")["changed_on_resume"], serde_json::json!([]));
    // What changes no number may differ.
    for set in
        ["output.keep_checkpoints=5", "train.log_every=3", "train.activations=recompute", "train.threads=1"]
    {
        resume(&["--set", set]).ok();
    }
    let out = resume(&["--accept-changes", "--set", "train.max_steps=5", "--set", "train.lr=0.02"]).ok();
    assert!(out.stderr.contains("train.lr: 0.01 before, 0.02 now"), "{out:#?}");
    let recorded = &place.json("out/receipt.json")["changed_on_resume"];
    assert_eq!(recorded[0]["after_step"], 3, "{recorded}");
    assert_eq!(recorded[0]["differences"][0]["key"], "train.lr", "{recorded}");
    assert_eq!(recorded[0]["differences"][1]["key"], "train.max_steps", "{recorded}");
    assert_eq!(place.losses("out").len(), 5);
    // It stays recorded.
    place
        .run(&[&begin[..], &["--resume", "--set", "train.max_steps=5", "--set", "train.lr=0.02"]].concat())
        .ok();
    assert_eq!(&place.json("out/receipt.json")["changed_on_resume"], recorded);
}

#[test]
fn a_template_that_prints_the_date_is_resumed_after_midnight() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write(
        "base/chat_template.jinja",
        "{{ strftime_now('%Y-%m-%d %H:%M:%S') }} {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
    );
    place.write("run.yaml", &run_file(&base, "lora"));
    place.write("rows.jsonl", &chats(12));
    let args = ["train", "run.yaml", "--set", "output.checkpoint_every=2", "--set", "train.max_steps=4"];
    place.run(&args).ok();
    let whole = (place.losses("out"), place.bytes("out/adapter_model.safetensors"));
    std::fs::remove_dir_all(place.path("out/checkpoints/step-4")).expect("the last checkpoint");
    // The clock prints seconds: another time than that of the beginning would be other rows.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let out = place.run(&[&args[..], &["--resume"]].concat()).ok();
    assert!(out.stderr.contains("step-2 after"), "{out:#?}");
    assert_eq!((place.losses("out"), place.bytes("out/adapter_model.safetensors")), whole);
}

#[test]
fn a_run_of_one_step_learns_something() {
    let place = Place::new();
    place.write("rows.jsonl", &chats(20));
    let base = model("llama3_rope");
    place.write(
        "run.yaml",
        &format!(
            "model: {{ base: '{}' }}\ndata: {{ train: rows.jsonl }}\noutput: {{ dir: out }}\n",
            base.display()
        ),
    );
    place.run(&["train", "run.yaml"]).ok();
    let (steps, _) = place.metrics("out");
    assert_eq!(steps.len(), 1);
    assert!(steps[0]["lr"].as_f64().expect("a rate") > 0.0, "{steps:?}");
    let bytes = place.bytes("out/adapter_model.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("an adapter");
    let learned: Vec<_> = tensors.iter().filter(|(name, _)| name.contains("lora_B")).collect();
    assert!(!learned.is_empty());
    for (name, tensor) in learned {
        assert!(tensor.data().iter().any(|byte| *byte != 0), "{name} is zero");
    }

    // With transformers' schedule the only step has a rate of 0.
    let args = ["train", "run.yaml", "--set", "train.warmup_from_zero=true", "--set", "output.dir=nothing"];
    let out = place.run(&args).refused(&["no trained value has changed (steps done: 1)"]);
    assert!(out.stderr.contains("train.lr"), "{out:#?}");
    assert!(!place.path("nothing/adapter_model.safetensors").exists());
    place.run(&["train", "run.yaml", "--set", "train.lr=0"]).refused(&["train.lr", "above 0"]);
}

#[test]
fn evaluating_changes_nothing_of_the_training() {
    for kind in ["lora", "qlora", "full"] {
        let place = Place::with_run(kind);
        place.write("held.jsonl", &chats(7));
        let run = |dir: &str, more: &[&str]| {
            let dir = format!("output.dir={dir}");
            let args = ["train", "run.yaml", "--set", "train.max_steps=4", "--set", &dir];
            place.run(&[&args[..], more].concat()).ok();
        };
        run("alone", &[]);
        run("evaluated", &["--set", "data.eval=held.jsonl", "--set", "train.eval_every=1"]);
        assert_eq!(place.metrics("evaluated").1.len(), 5, "before the first step and after each");
        assert_eq!(place.losses("evaluated"), place.losses("alone"), "{kind}");
        let file = if kind == "full" { "model.safetensors" } else { "adapter_model.safetensors" };
        assert!(place.bytes(&format!("evaluated/{file}")) == place.bytes(&format!("alone/{file}")), "{kind}");
    }
}

#[test]
fn a_finished_run_says_what_came_out() {
    let place = Place::with_run("lora");
    let out = place.run(&["train", "run.yaml", "--set", "data.eval=20%"]).ok();
    let losses = place.losses("out");
    let ends = format!("{:.4} in the first step, {:.4} in the last", losses[0].1, losses[losses.len() - 1].1);
    for words in [
        "steps          20 in",
        "tokens/s",
        &ends,
        "held-out loss",
        "peak memory",
        "planned",
        "adapter",
        "ferrotune chat out",
        "ferrotune eval out --data rows.jsonl",
        "ferrotune merge out --output out-merged",
    ] {
        assert!(out.stderr.contains(words), "{words}: {out:#?}");
    }
    let done = place.run(&["train", "run.yaml", "--json", "--set", "output.dir=two"]).json();
    assert_eq!(done["first_loss"].as_f64(), Some(place.losses("two")[0].1));
    assert!(done["result_bytes"].as_u64().expect("bytes") > 1000);
}
