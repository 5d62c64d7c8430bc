//! Paths of a run file: beside it, and below the home folder.

use super::helper::{Out, PROGRAM, Place, chats};

#[test]
fn rows_beside_the_run_file_are_found_and_said() {
    let place = Place::with_run("lora");
    let text = place.read("run.yaml").replace("rows.jsonl", "train.jsonl, eval: [held.jsonl]");
    place.write("sub/run.yaml", &text);
    place.write("sub/train.jsonl", &chats(6));
    place.write("sub/held.jsonl", &chats(2));
    let out = place.run(&["train", "sub/run.yaml", "--set", "train.max_steps=1"]).ok();
    for words in
        ["data.train: train.jsonl is not in the current folder; sub/train.jsonl is taken", "sub/held.jsonl"]
    {
        assert!(out.stderr.contains(words), "{out:#?}");
    }
    // The run file of the results finds them again.
    let again = place.run(&["--json", "preview", "out/run.yaml"]).ok();
    assert!(!again.stderr.contains("is taken"), "{again:#?}");
    // What is in the current folder comes first.
    place.write("train.jsonl", "{\"text\": \"another\"}\n");
    let out = place.run(&["--json", "preview", "sub/run.yaml"]).ok();
    assert!(out.stdout.contains("\"report\":{\"rows\":1,"), "{out:#?}");
    assert!(out.stderr.contains("{\"event\":\"message\",\"text\":\"data.eval: held.jsonl"), "{out:#?}");
    place.run(&["preview", "sub/run.yaml", "--set", "data.train=nowhere.jsonl"]).refused(&["nowhere.jsonl"]);
}

#[test]
fn a_tilde_is_the_home_folder() {
    let place = Place::with_run("lora");
    let home = Place::new();
    home.write("data/rows.jsonl", &chats(4));
    let run = |args: &[&str]| -> Out {
        place.command(PROGRAM, args).env("HOME", home.path(".")).output().expect("the program starts").into()
    };
    let set = |value: &'static str| ["--set", value];
    let args = [
        &["train", "run.yaml"][..],
        &set("data.train=~/data/rows.jsonl"),
        &set("output.dir=~/runs/a"),
        &set("train.max_steps=1"),
    ];
    run(&args.concat()).ok();
    assert!(home.path("runs/a/adapter_model.safetensors").is_file());
    assert!(!place.path("~").exists());
    run(&["train", "run.yaml", "--set", "train.init_adapter=~/runs/a", "--set", "train.max_steps=1"]).ok();
    for key in ["output.dir", "data.train", "data.eval", "model.base", "train.init_adapter"] {
        run(&["preview", "run.yaml", "--set", &format!("{key}=~other/x")]).refused(&[key, "`other`"]);
    }
}
