//! A run's folder belongs to it alone, one process works in it, and no good checkpoint is lost.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::helper::{Place, chats, model, names, run_file};

/// A run of 4 steps with a checkpoint after each second.
const ARGS: [&str; 6] =
    ["train", "run.yaml", "--set", "output.checkpoint_every=2", "--set", "train.max_steps=4"];

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ARGS.iter().chain(more).copied().collect()
}

/// All files below a folder with their content, but for the mark of who works there.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in names(folder).into_iter().filter(|name| name != ".ferrotune-run") {
        let path = folder.join(&name);
        if path.is_dir() {
            all.extend(content(&path).into_iter().map(|(n, c)| (format!("{name}/{n}"), c)));
        } else {
            all.push((name, std::fs::read(path).expect("a file")));
        }
    }
    all
}

#[test]
fn a_folder_of_somebody_else_is_not_touched() {
    let place = Place::with_run("lora");
    place.write("mine/README.md", "my notes");
    place.write("mine/run.yaml", "model: {}");
    let before = content(&place.path("mine"));
    for how in [&[][..], &["--resume"], &["--restart"]] {
        let out = place.run(&args(&[&["--set", "output.dir=mine"], how].concat()));
        out.refused(&["mine", "not a run's: README.md, run.yaml", "output.dir"]);
        let out = place.run(&args(&[&["--set", "output.dir=."], how].concat()));
        out.refused(&["not a run's", "rows.jsonl"]);
    }
    assert_eq!(content(&place.path("mine")), before);
    // An empty folder is as good as none.
    std::fs::create_dir(place.path("empty")).expect("a folder");
    place.run(&args(&["--set", "output.dir=empty"])).ok();
}

#[test]
fn the_base_is_not_replaced_by_what_is_made_from_it() {
    let place = Place::with_run("full");
    place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&place.path("base"), "full"));
    let before = content(&place.path("base"));
    for how in [&[][..], &["--resume"]] {
        place.run(&args(&[&["--set", "output.dir=base"], how].concat())).refused(&["base", "not a run's"]);
    }
    assert_eq!(content(&place.path("base")), before);
    // Nor where the base is the result of an earlier run.
    place.run(&args(&[])).ok();
    let trained = place.bytes("out/model.safetensors");
    let out = place.run(&args(&["--set", "model.base=out", "--resume"]));
    out.refused(&["out", "the base model lies in this folder"]);
    assert!(place.bytes("out/model.safetensors") == trained);
}

#[test]
fn a_second_process_is_refused_and_the_first_is_not_disturbed() {
    let place = Place::with_run("lora");
    place.write("rows.jsonl", &chats(100));
    let long = ["--set", "train.max_steps=2000", "--set", "train.batch_rows=30"];
    let mut first = place.start(&args(&long));
    let end = Instant::now() + Duration::from_secs(60);
    while !place.path("out/metrics.jsonl").exists() {
        assert!(Instant::now() < end, "no step in a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
    let who = format!("process {} is training in this folder", first.id());
    for how in [&[][..], &["--resume"], &["--restart"]] {
        place.run(&args(&[&long[..], how].concat())).refused(&["out", &who]);
    }
    std::process::Command::new("kill").args(["-INT", &first.id().to_string()]).status().expect("kill");
    assert_eq!(first.wait().expect("the first process").code(), Some(130));
    let steps: Vec<u64> = place.losses("out").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "lines of one run");
    // The lock ends with its process.
    place
        .run(&args(&[&["--resume", "--set", "train.batch_rows=30"][..], &["--accept-changes"]].concat()))
        .ok();
}

#[test]
fn checkpoints_that_cannot_be_read_are_not_taken_for_none() {
    let place = Place::with_run("lora");
    place.run(&args(&[])).ok();
    let before = content(&place.path("out"));
    let list = "out/checkpoints/step-4/checkpoint.json";
    let newer = place.read(list).replacen("\"format\": 2", "\"format\": 3", 1);
    for (name, text, words) in [
        (list, newer.as_str(), &["step-4", "format 3", "--restart"][..]),
        ("out/checkpoints/step-4/parameters.safetensors", "short", &["parameters.safetensors has 5 bytes"]),
    ] {
        let old = place.bytes(name);
        place.write(name, text);
        let other = place.path("aside");
        // The older one would do in the second case.
        std::fs::rename(place.path("out/checkpoints/step-2"), &other).expect("a rename");
        place.run(&args(&["--resume"])).refused(words);
        std::fs::rename(&other, place.path("out/checkpoints/step-2")).expect("a rename");
        std::fs::write(place.path(name), old).expect("the file of before");
    }
    assert_eq!(content(&place.path("out")), before, "a refused resume changes nothing");

    place.write(list, &newer);
    place.run(&args(&["--restart"])).ok();
    assert_eq!(place.read("out/previous-1/checkpoints/step-4/checkpoint.json"), newer);
    assert_eq!(names(&place.path("out/checkpoints")), ["step-2", "step-4"]);
    assert_eq!(place.losses("out").len(), 4);
    place.run(&args(&[])).refused(&["holds a run", "--resume", "--restart"]);
}

#[test]
fn flipped_bits_are_noticed_and_the_checkpoint_before_is_taken() {
    for (kind, optimizer) in [("lora", "adamw"), ("full", "adamw8bit")] {
        let place = Place::with_run(kind);
        let optimizer = format!("train.optimizer={optimizer}");
        let more = ["--set", &optimizer];
        place.run(&args(&[&["--set", "output.dir=whole"], &more[..]].concat())).ok();
        place.run(&args(&more)).ok();
        for file in ["optimizer.safetensors", "parameters.safetensors", "state.json"] {
            let path = place.path(&format!("out/checkpoints/step-4/{file}"));
            let mut bytes = std::fs::read(&path).expect("a file");
            let at = bytes.len() * 3 / 4;
            bytes[at] ^= 0x10;
            std::fs::write(&path, bytes).expect("a file");
            let out = place.run(&args(&[&["--resume"], &more[..]].concat())).ok();
            let words = format!("step-4 is damaged ({file} has another content than was written)");
            assert!(out.stderr.contains(&words), "{out:#?}");
            assert!(out.stderr.contains("step-2 after"), "{out:#?}");
            assert_eq!(place.losses("out"), place.losses("whole"));
            assert_eq!(names(&place.path("out/checkpoints")), ["step-2", "step-4"]);
        }
    }
}

#[test]
fn lost_metrics_are_told() {
    let place = Place::with_run("lora");
    place.run(&args(&[])).ok();
    // What a power loss leaves of a file that was never brought to the disk.
    place.write("out/metrics.jsonl", "");
    let out = place.run(&args(&["--resume"])).ok();
    assert!(out.stderr.contains("metrics.jsonl has no line of 4 of the 4 steps done"), "{out:#?}");
}

#[test]
fn other_users_can_read_what_a_run_writes() {
    let place = Place::with_run("lora");
    let run = |umask: &str, args: &[&str]| {
        let script = format!("umask {umask}; exec \"$@\"");
        let all = [&["-c", &script, "sh", super::helper::PROGRAM], args].concat();
        let out = place.command("sh", &all).output().expect("a shell");
        assert!(out.status.success(), "{out:?}");
    };
    let modes = |folder: &str, expected: u32| {
        fn walk(folder: &Path, expected: u32) {
            for name in names(folder).into_iter().filter(|name| !name.starts_with('.')) {
                let path = folder.join(name);
                if path.is_dir() {
                    walk(&path, expected);
                } else {
                    let mode = std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
                    assert_eq!(mode, expected, "{}: {mode:o}", path.display());
                }
            }
        }
        walk(&place.path(folder), expected);
    };
    run("022", &args(&[]));
    modes("out", 0o644);
    run("022", &["merge", "out", "--output", "merged"]);
    modes("merged", 0o644);
    run("027", &args(&["--set", "output.dir=group", "--set", "method.kind=full"]));
    modes("group", 0o640);
    let base = model("llama3_rope").display().to_string();
    run("022", &["quantize", &base, "--output", "four"]);
    modes("four", 0o644);
}

#[test]
fn a_base_that_changes_while_it_is_read_is_noticed() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    place.write("rows.jsonl", &chats(100));
    let weights = base.join("model.safetensors");
    let long = ["--set", "train.max_steps=4000", "--set", "train.batch_rows=30"];
    let begun = |dir: &str| {
        let dir = format!("output.dir={dir}");
        let run = place.start(&args(&[&long[..], &["--set", &dir]].concat()));
        let path = place.path(dir.trim_start_matches("output.dir=")).join("checkpoints/step-2");
        let end = Instant::now() + Duration::from_secs(60);
        while !path.exists() {
            assert!(Instant::now() < end, "no checkpoint in a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
        run
    };
    // Another file under its name: the run has still mapped the old one.
    let run = begun("replaced");
    let mut bytes = std::fs::read(&weights).expect("weights");
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    std::fs::write(base.join("new"), &bytes).expect("weights");
    std::fs::rename(base.join("new"), &weights).expect("a rename");
    std::thread::sleep(Duration::from_millis(300));
    std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status().expect("kill");
    let out: super::helper::Out = run.wait_with_output().expect("the process").into();
    assert_eq!(out.code, Some(130), "{out:#?}");
    assert!(out.stderr.contains("not the file any more"), "{out:#?}");

    // The same file written over: what is trained from then on is of another base.
    let run = begun("rewritten");
    let file = std::fs::File::options().write(true).open(&weights).expect("weights");
    std::os::unix::fs::FileExt::write_at(&file, &[bytes[at] ^ 1], at as u64).expect("a byte");
    let out: super::helper::Out = run.wait_with_output().expect("the process").into();
    out.refused(&["model.safetensors", "written over while the run read it"]);
    // One byte of it is another model for a resumed run too.
    place
        .run(&args(&[&long[..], &["--set", "output.dir=rewritten", "--resume"]].concat()))
        .refused(&["the base model changed"]);
}
