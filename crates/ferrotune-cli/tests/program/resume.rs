//! A run that was stopped and resumed ends with the bits of one that was not.
#![cfg(unix)]

use std::process::Child;
use std::time::{Duration, Instant};

use super::helper::{Out, Place, chats, model, names, run_file};

const ADAPTER: &str = "adapter_model.safetensors";

/// A run of 24 steps with dropout, evaluation and shuffled epochs: everything that has a state.
const ARGS: [&str; 13] = [
    "train",
    "run.yaml",
    "--set",
    "output.checkpoint_every=2",
    "--set",
    "method.dropout=0.1",
    "--set",
    "data.eval=10%",
    "--set",
    "train.epochs=8",
    "--set",
    "train.batch_rows=30",
    "--resume",
];

/// A place with rows for steps that take long enough to be interrupted.
fn place() -> Place {
    let place = Place::with_run("lora");
    place.write("rows.jsonl", &chats(100));
    place
}

fn args<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ARGS.iter().chain(more).copied().collect()
}

/// Waits until the run has written `lines` lines of metrics, then sends it `signal`.
#[track_caller]
fn stop(place: &Place, mut run: Child, lines: usize, signal: &str) -> Out {
    let path = place.path("out/metrics.jsonl");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&path).map_or(0, |t| t.lines().count()) < lines {
        assert!(Instant::now() < end, "no step in a minute");
        if let Some(status) = run.try_wait().expect("the process") {
            panic!("ended before it was stopped: {status}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = run.id().to_string();
    let sent = std::process::Command::new("kill").args([signal, &pid]).status().expect("kill");
    assert!(sent.success());
    run.wait_with_output().expect("the process").into()
}

/// The result of the run in one go, to compare with.
fn whole(place: &Place) -> (Vec<u8>, Vec<(u64, f64)>, Vec<String>) {
    place.run(&args(&["--set", "output.dir=whole"])).ok();
    results(place, "whole")
}

/// Adapter, losses, and the lines of evaluations.
fn results(place: &Place, run: &str) -> (Vec<u8>, Vec<(u64, f64)>, Vec<String>) {
    let evals = place.metrics(run).1.iter().map(ToString::to_string).collect();
    (place.bytes(&format!("{run}/{ADAPTER}")), place.losses(run), evals)
}

#[test]
fn interrupted_and_killed_runs_end_with_the_same_bits() {
    let place = place();
    let expected = whole(&place);
    assert_eq!(expected.1.len(), 24);
    assert_eq!(expected.2.len(), 9);

    // Ctrl-C in the middle: the step is finished, a checkpoint is written, the code says so.
    let out = stop(&place, place.start(&args(&[])), 5, "-INT");
    assert_eq!(out.code, Some(130), "{out:#?}");
    let done = place.losses("out").len();
    assert!((4..24).contains(&done), "{done}");
    let checkpoint = format!("out/checkpoints/step-{done}");
    let files = names(&place.path(&checkpoint));
    for name in
        ["parameters.safetensors", "optimizer.safetensors", "state.json", ADAPTER, "adapter_config.json"]
    {
        assert!(files.iter().any(|f| f == name), "{name} is not in {files:?}");
    }
    assert_eq!(place.json("out/receipt.json")["interrupted"], true);

    // What a cluster sends before it takes a machine away does the same.
    let out = stop(&place, place.start(&args(&[])), done + 3, "-TERM");
    assert_eq!(out.code, Some(130), "{out:#?}");
    let done = place.losses("out").len();
    assert!(place.path(&format!("out/checkpoints/step-{done}/state.json")).exists());

    // The same, then killed between two checkpoints: what was not saved is done again.
    let out = stop(&place, place.start(&args(&[])), done + 3, "-KILL");
    assert_eq!(out.code, None);
    let out = place.run(&args(&[])).ok();
    assert!(out.stderr.contains("resumed from"), "{out:#?}");
    assert_eq!(results(&place, "out"), expected);
    assert_eq!(names(&place.path("out/checkpoints")), ["step-22", "step-24"]);

    // A run that is done stays as it is.
    let receipt = place.json("out/receipt.json");
    place.run(&args(&[])).ok();
    assert_eq!(results(&place, "out"), expected);
    assert_eq!(place.json("out/receipt.json")["loss"], receipt["loss"]);
}

#[test]
fn a_run_killed_before_its_first_checkpoint_starts_over() {
    let place = place();
    let more = ["--set", "output.checkpoint_every=20", "--set", "train.max_steps=8"];
    place.run(&args(&["--set", "train.max_steps=8", "--set", "output.dir=whole"])).ok();
    stop(&place, place.start(&args(&more)), 3, "-KILL");
    place.run(&args(&more)).ok();
    assert_eq!(results(&place, "out"), results(&place, "whole"));
}

#[test]
fn the_newest_whole_checkpoint_is_taken() {
    let place = place();
    let short = ["--set", "train.max_steps=8", "--set", "output.keep_checkpoints=3"];
    place.run(&args(&[&short[..], &["--set", "output.dir=whole"]].concat())).ok();
    place.run(&args(&short)).ok();
    let expected = results(&place, "whole");
    let steps = || names(&place.path("out/checkpoints"));
    assert_eq!(steps(), ["step-4", "step-6", "step-8"]);
    let damage: [&dyn Fn(); 6] = [
        &|| std::fs::remove_file(place.path("out/checkpoints/step-8/state.json")).expect("a file"),
        &|| std::fs::remove_file(place.path("out/checkpoints/step-8/optimizer.safetensors")).expect("a file"),
        &|| place.write("out/checkpoints/step-8/state.json", "{\"format\": 2, \"st"),
        &|| {
            let path = place.path("out/checkpoints/step-8/parameters.safetensors");
            let file = std::fs::File::options().write(true).open(path).expect("weights");
            file.set_len(9000).expect("a cut");
        },
        &|| {
            let all = place.path("out/checkpoints");
            std::fs::rename(all.join("step-8"), all.join(".step-9.tmp")).expect("a folder");
        },
        &|| std::fs::create_dir(place.path("out/checkpoints/step-99")).expect("a folder"),
    ];
    for (i, damage) in damage.iter().enumerate() {
        damage();
        let out = place.run(&args(&short)).ok();
        let step = if i == 5 { "step-8" } else { "step-6" };
        assert!(out.stderr.contains(&format!("checkpoints/{step} after")), "damage {i}: {out:#?}");
        assert_eq!(results(&place, "out"), expected, "damage {i}");
        // Without a further checkpoint the damaged one waits beside the others.
        let waiting = if i == 5 { &["damaged-step-99"][..] } else { &[] };
        assert_eq!(steps(), [waiting, &["step-4", "step-6", "step-8"]].concat(), "damage {i}");
    }
}

#[test]
fn eight_bit_moments_are_resumed() {
    let place = Place::with_run("full");
    let settings = ["train.optimizer=adamw8bit", "train.max_steps=6", "output.checkpoint_every=2"];
    let run = |dir: &str, more: &[&str]| {
        let dir = format!("output.dir={dir}");
        let sets = settings.iter().copied().chain([dir.as_str()]).flat_map(|s| ["--set", s]);
        place
            .run(
                &["train", "run.yaml"]
                    .into_iter()
                    .chain(sets)
                    .chain(more.iter().copied())
                    .collect::<Vec<_>>(),
            )
            .ok();
    };
    run("whole", &[]);
    run("out", &[]);
    std::fs::remove_dir_all(place.path("out/checkpoints/step-6")).expect("the last checkpoint");
    run("out", &["--resume"]);
    assert_eq!(place.losses("out"), place.losses("whole"));
    assert!(place.bytes("out/model.safetensors") == place.bytes("whole/model.safetensors"));
    let losses = place.losses("out");
    assert!(losses[5].1 < losses[0].1, "{losses:?}");
    let plan = place.json("out/receipt.json")["planned_bytes"].as_u64().expect("bytes");
    run("wide", &["--set", "train.optimizer=adamw"]);
    assert!(plan < place.json("wide/receipt.json")["planned_bytes"].as_u64().expect("bytes"));
    assert_ne!(place.losses("wide"), losses, "another optimizer");
}

#[test]
fn paged_moments_are_those_in_memory() {
    let place = Place::with_run("full");
    let run = |dir: &str, optimizer: &str, more: &[&str]| {
        let (dir, optimizer) = (format!("output.dir={dir}"), format!("train.optimizer={optimizer}"));
        let sets = [&dir, &optimizer, "train.max_steps=6", "output.checkpoint_every=2"];
        let sets = sets.into_iter().flat_map(|s| ["--set", s]);
        place.run(
            &["train", "run.yaml"].into_iter().chain(sets).chain(more.iter().copied()).collect::<Vec<_>>(),
        )
    };
    run("whole", "adamw", &[]).ok();
    run("out", "paged_adamw", &[]).ok();
    assert_eq!(place.losses("out"), place.losses("whole"));
    let same = |file: &str| place.bytes(&format!("out/{file}")) == place.bytes(&format!("whole/{file}"));
    assert!(same("model.safetensors") && same("checkpoints/step-6/optimizer.safetensors"));
    std::fs::remove_dir_all(place.path("out/checkpoints/step-6")).expect("the last checkpoint");
    run("out", "paged_adamw_32bit", &["--resume"]).ok();
    assert!(same("model.safetensors") && same("checkpoints/step-6/optimizer.safetensors"));
    assert!(names(&place.path("out")).iter().all(|name| !name.contains("scratch")), "the file has no name");
}

#[test]
fn weights_in_bf16_are_trained_like_those_in_f32() {
    let place = Place::with_run("full");
    for (name, norm) in [("llama_tied", "1"), ("llama3_rope", "0")] {
        place.write("run.yaml", &run_file(&model(name), "full"));
        let run = |dir: &str, weights: &str, more: &[&str]| {
            let dir = format!("output.dir={name}-{dir}");
            let (weights, norm) = (format!("train.weights={weights}"), format!("train.max_grad_norm={norm}"));
            let paged = "train.optimizer=paged_adamw";
            let sets = [&dir, &weights, &norm, paged, "train.precision=bf16", "train.max_steps=6"];
            let sets = sets.into_iter().chain(["output.checkpoint_every=2"]).flat_map(|s| ["--set", s]);
            let args = ["train", "run.yaml"].into_iter().chain(sets).chain(more.iter().copied());
            place.run(&args.collect::<Vec<_>>()).ok()
        };
        run("wide", "f32", &[]);
        run("narrow", "bf16", &[]);
        let [wide, narrow] = ["wide", "narrow"].map(|dir| format!("{name}-{dir}"));
        assert_eq!(place.losses(&narrow), place.losses(&wide));
        let same =
            |file: &str| place.bytes(&format!("{narrow}/{file}")) == place.bytes(&format!("{wide}/{file}"));
        assert!(same("model.safetensors") && same("checkpoints/step-6/parameters.safetensors"), "{name}");
        std::fs::remove_dir_all(place.path(&format!("{narrow}/checkpoints/step-6")))
            .expect("the last checkpoint");
        run("narrow", "bf16", &["--resume"]);
        assert!(same("model.safetensors") && same("checkpoints/step-6/optimizer.safetensors"), "{name}");
    }
    let refused = |set: &[&str], words: &[&str]| {
        let sets = set.iter().chain(&["train.weights=bf16"]).flat_map(|s| ["--set", s]);
        place.run(&["train", "run.yaml"].into_iter().chain(sets).collect::<Vec<_>>()).refused(words);
    };
    refused(&[], &["train.optimizer", "paged_adamw"]);
    refused(&["train.optimizer=paged_adamw", "train.precision=f32"], &["train.precision"]);
    refused(&["method.kind=lora"], &["method.kind", "full"]);
}

#[test]
fn another_base_or_other_rows_are_refused() {
    let place = place();
    let short = ["--set", "train.max_steps=4"];
    place.run(&args(&short)).ok();
    let before = results(&place, "out");
    let base = format!("model.base={}", model("mistral").display());
    let more = [&short[..], &["--set", &base]].concat();
    place.run(&args(&more)).refused(&["out/checkpoints/step-4", "the base model changed"]);
    let more = [&short[..], &["--set", "method.rank=8"]].concat();
    place.run(&args(&more)).refused(&["out/checkpoints/step-4", "method.rank: 4 before, 8 now"]);
    place
        .run(&args(&[&more[..], &["--accept-changes"]].concat()))
        .refused(&["out/checkpoints/step-4", "shape"]);
    place.write("rows.jsonl", &chats(99));
    place.run(&args(&short)).refused(&["out/checkpoints/step-4", "the rows changed"]);
    assert_eq!(results(&place, "out"), before, "a refused resume changes nothing");
}
