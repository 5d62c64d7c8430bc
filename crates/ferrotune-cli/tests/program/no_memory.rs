//! Limits on the addresses of the process, from far too few to enough: an error that says so, and never a checkpoint less.
#![cfg(target_os = "linux")]

use super::helper::{Out, PROGRAM, Place, names};

/// Runs the program with so many MiB of addresses.
fn limited(place: &Place, mib: usize, args: &[&str]) -> Out {
    let script = format!("ulimit -v {}; exec \"$@\"", mib * 1024);
    let all = [&["-c", &script, "sh", PROGRAM], args].concat();
    place.command("sh", &all).output().expect("a shell").into()
}

#[test]
fn too_little_memory_is_an_error_and_costs_no_checkpoint() {
    // Below its own size the system cannot even start a program, and this one is not optimized.
    let place = Place::new();
    let starts = |mib: &usize| limited(&place, *mib, &["--version"]).code == Some(0);
    let least = (16..=48).find(starts).expect("the program starts in 48 MiB");
    for kind in ["full", "lora"] {
        let place = Place::with_run(kind);
        let args = ["train", "run.yaml", "--set", "output.checkpoint_every=2", "--set", "train.max_steps=6"];
        let resume = [&args[..], &["--resume"]].concat();
        place.run(&args).ok();
        let expected = place.losses("out");
        let mut ended = [0, 0];
        for mib in (least..=640).step_by(16) {
            // A run of which two checkpoints are there, and two steps are missing.
            std::fs::remove_dir_all(place.path("out/checkpoints/step-6")).expect("the newest checkpoint");
            let kept = place.path("out/checkpoints/step-4");
            assert!(kept.exists(), "{kind} {mib}");
            let out = limited(&place, mib, &resume);
            match out.code {
                Some(0) => ended[0] += 1,
                Some(1) => {
                    ended[1] += 1;
                    assert!(
                        out.stderr.contains("error: ") && out.stderr.contains("hint: "),
                        "{mib}: {out:#?}"
                    );
                }
                _ => panic!("{kind} {mib}: {out:#?}"),
            }
            assert!(!out.stderr.contains("panicked"), "{kind} {mib}: {out:#?}");
            let there = names(&place.path("out/checkpoints"));
            assert!(there.iter().any(|n| n == "step-4" || n == "step-6"), "{kind} {mib}: {there:?}");
            place.run(&resume).ok();
            assert_eq!(place.losses("out"), expected, "{kind} {mib}");
        }
        assert!(ended[0] > 10 && ended[1] >= 1, "{kind}: {ended:?} of both kinds");
    }
}
