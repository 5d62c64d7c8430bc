//! Disks that are full and folders that cannot be written: a clear error, and what was whole stays whole.

use super::helper::{Out, PROGRAM, Place, chats, names};

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
    let out = place.run(&args).refused(&["step 3", "NaN"]);
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
fn a_full_disk_leaves_no_half_model() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    limited(&place, 100, &["merge", "out", "--output", "merged"]).refused(&["merged", "File too large"]);
    assert!(!place.path("merged").exists());
    place.run(&["merge", "out", "--output", "merged"]).ok();
}
