//! Disks that are full and folders that cannot be written: a clear error, and what was whole stays whole.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::helper::{Out, PROGRAM, Place, chats, model, names};

#[test]
fn an_output_folder_that_cannot_be_made() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "output.dir=rows.jsonl/out"]).refused(&["rows.jsonl/out"]);
    place.run(&["train", "run.yaml", "--set", "output.dir=rows.jsonl"]).refused(&["rows.jsonl"]);
    assert_eq!(place.read("rows.jsonl"), chats(24));
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    place.run(&["merge", "out", "--output", "rows.jsonl/merged"]).refused(&["rows.jsonl/merged"]);
    assert_eq!(names(&place.path(".")), ["out", "rows.jsonl", "run.yaml"]);
}

#[test]
fn a_run_that_diverges_says_so_and_keeps_its_checkpoints() {
    let place = Place::with_run("full");
    let args = ["train", "run.yaml", "--set", "train.lr=1e30", "--set", "output.checkpoint_every=1"];
    let out = place.run(&args).refused(&["step 2", "NaN"]);
    assert!(out.stderr.contains("lower train.lr"), "{out:#?}");
    assert!(place.path("out/checkpoints/step-1/state.json").exists());
    assert!(!place.path("out/model.safetensors").exists(), "no result of a run that failed");
}

/// Runs the program where no file may grow beyond so many blocks of 512 bytes: writes fail as on a full disk.
#[cfg(unix)]
pub fn limited(place: &Place, blocks: usize, args: &[&str]) -> Out {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let mut all = vec!["-c", &script, "sh", PROGRAM];
    all.extend(args);
    place.command("sh", &all).output().expect("a shell").into()
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let place = Place::with_run("lora");
    let args = [
        "train",
        "run.yaml",
        "--resume",
        "--accept-changes",
        "--set",
        "output.checkpoint_every=2",
        "--set",
        "output.keep_checkpoints=1",
    ];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    place.run(&with(&["--set", "train.epochs=1"])).ok();
    let before = names(&place.path("out/checkpoints"));
    assert_eq!(before, ["step-4"]);

    // The optimizer's file is twice the adapter; neither fits.
    let out = limited(&place, 40, &with(&[])).refused(&["out/checkpoints", "File too large"]);
    assert!(out.stderr.contains("make room"), "{out:#?}");
    assert_eq!(names(&place.path("out/checkpoints")), before, "the last one is whole, no half one beside it");
    // The metrics cannot grow any more either: a line is cut in the middle.
    let length = place.bytes("out/metrics.jsonl").len();
    limited(&place, length / 512 + 1, &with(&[])).refused(&["out/"]);
    assert_eq!(names(&place.path("out/checkpoints")), before);

    place.run(&with(&[])).ok();
}

#[cfg(unix)]
#[test]
fn a_full_disk_has_no_room_for_moments() {
    let place = Place::with_run("full");
    let args = ["train", "run.yaml", "--set", "train.optimizer=paged_adamw"];
    let out = limited(&place, 40, &args).refused(&["out", "File too large"]);
    assert!(out.stderr.contains("moments take"), "{out:#?}");
    assert_eq!(names(&place.path("out")), [] as [&str; 0]);
    place.run(&args).ok();
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_no_half_model() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    limited(&place, 100, &["merge", "out", "--output", "merged"]).refused(&["merged", "File too large"]);
    assert!(!place.path("merged").exists());
    place.run(&["merge", "out", "--output", "merged"]).ok();
}

#[cfg(unix)]
#[test]
fn a_model_cut_short_while_it_trains_leaves_the_last_checkpoint() {
    let place = Place::with_run("lora");
    // A base of its own, as it is to be damaged.
    let own = place.path("base");
    std::fs::create_dir(&own).expect("a folder");
    for file in std::fs::read_dir(model("mistral")).expect("the model").flatten() {
        std::fs::copy(file.path(), own.join(file.file_name())).expect("a copy");
    }
    let base = format!("model.base={}", own.display());
    let args = ["train", "run.yaml", "--set", &base, "--set", "train.epochs=4000"];
    let args = [&args[..], &["--set", "output.checkpoint_every=1"]].concat();
    let run = place.command(PROGRAM, &args).stderr(Stdio::piped()).spawn().expect("the program");
    let first = place.path("out/checkpoints/step-2");
    let end = Instant::now() + Duration::from_secs(60);
    while !first.exists() {
        assert!(Instant::now() < end, "no checkpoint in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
    let weights =
        std::fs::OpenOptions::new().write(true).open(own.join("model.safetensors")).expect("weights");
    weights.set_len(4096).expect("shorter");
    let out: Out = run.wait_with_output().expect("the program").into();
    let out = out.refused(&["cut short"]);
    assert!(out.stderr.contains("--resume"), "{out:#?}");
    let last = names(&place.path("out/checkpoints"));
    let whole = last.iter().filter(|name| name.starts_with("step-"));
    assert!(whole.clone().count() >= 1, "{last:?}");
    for step in whole {
        assert!(place.path(&format!("out/checkpoints/{step}/state.json")).exists(), "{step}");
    }
}
