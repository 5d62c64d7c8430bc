//! A run does not end because nobody reads what it says.
#![cfg(unix)]

use super::helper::{Out, PROGRAM, Place};

/// Runs a line of a shell in which `$FT` is the program.
fn shell(place: &Place, line: &str) -> Out {
    let mut command = place.command("bash", &["-c", line]);
    command.env("FT", PROGRAM).output().expect("a shell").into()
}

#[test]
fn a_run_goes_on_when_its_reader_has_gone() {
    let place = Place::with_run("lora");
    place.run(&["train", "run.yaml", "--set", "output.dir=whole"]).ok();
    for (i, line) in [
        "\"$FT\" train run.yaml --set output.dir=DIR 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "\"$FT\" train run.yaml --set output.dir=DIR --json 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "\"$FT\" train run.yaml --set output.dir=DIR 2>/dev/full",
        "\"$FT\" train run.yaml --set output.dir=DIR --json 2>/dev/full >/dev/null",
        "\"$FT\" train run.yaml --set output.dir=DIR 2>&- >&-",
    ]
    .iter()
    .enumerate()
    {
        let dir = format!("out{i}");
        let out = shell(&place, &line.replace("DIR", &dir));
        assert_eq!(out.code, Some(0), "{line}: {out:#?}");
        assert_eq!(place.losses(&dir), place.losses("whole"), "{line}");
        assert!(place.path(&format!("{dir}/adapter_model.safetensors")).exists(), "{line}");
    }
}

#[test]
fn data_that_was_lost_is_an_error_after_the_run() {
    let place = Place::with_run("lora");
    let out = shell(&place, "\"$FT\" train run.yaml --json >/dev/full");
    assert_eq!(out.code, Some(1), "{out:#?}");
    assert!(out.stderr.contains("standard output") && !out.stderr.contains("panicked"), "{out:#?}");
    assert!(place.path("out/adapter_model.safetensors").exists());
    let out = shell(&place, "\"$FT\" preview run.yaml >/dev/full");
    assert_eq!(out.code, Some(1), "{out:#?}");
    let out = shell(&place, "\"$FT\" preview run.yaml -n 20 --tokens | head -1; exit ${PIPESTATUS[0]}");
    assert_eq!(out.code, Some(0), "{out:#?}");
    assert!(!out.stderr.contains("panicked"), "{out:#?}");
}
