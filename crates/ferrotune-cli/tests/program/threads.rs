//! How many threads compute: those that were asked for, whatever a command does.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

use super::helper::{Place, chats, model, run_file};

/// Samples from which on a thread is no passing one: a new thread has its parent's name until it takes its own.
const LASTING: usize = 10;

/// Names of the threads that a command computes with, sorted. Those that wait for a signal or for the disk have other names.
#[track_caller]
fn computing(place: &Place, args: &[&str]) -> Vec<String> {
    let mut child = place.start(args);
    let tasks = format!("/proc/{}/task", child.id());
    let mut samples = BTreeMap::<_, usize>::new();
    while child.try_wait().expect("a process").is_none() {
        for task in fs::read_dir(&tasks).into_iter().flatten().flatten() {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            *samples.entry((name.trim().to_string(), task.file_name())).or_default() += 1;
        }
        sleep(Duration::from_millis(1));
    }
    assert!(child.wait().expect("a process").success(), "{args:?}");
    let lasting = samples.into_iter().filter(|(_, n)| *n >= LASTING).map(|((name, _), _)| name);
    lasting.filter(|name| name.starts_with("ferrotune")).collect()
}

#[test]
fn threads_are_those_of_the_option_or_of_the_run_file() {
    let place = Place::new();
    place.write("rows.jsonl", &chats(3000));
    place.write("run.yaml", &run_file(&model("llama3_rope"), "qlora"));
    let [one, two] = ["ferrotune", "ferrotune-1"];
    let preview = ["preview", "run.yaml"];
    let train = ["train", "run.yaml", "--set", "train.max_steps=4", "--set", "output.checkpoint_every=2"];
    for (command, dir) in [(&preview[..], "none"), (&train[..], "trained")] {
        for (count, expected) in [("1", &[one][..]), ("2", &[one, two])] {
            let dir = format!("output.dir={dir}{count}");
            let (of_file, dir_of_file) = (format!("train.threads={count}"), format!("{dir}f"));
            let args = [command, &["--set", &of_file, "--set", &dir_of_file]].concat();
            assert_eq!(computing(&place, &args), expected, "{args:?}");
            let args =
                [&["--threads", count], command, &["--set", "train.threads=7", "--set", &dir]].concat();
            assert_eq!(computing(&place, &args), expected, "{args:?}");
        }
    }
}
