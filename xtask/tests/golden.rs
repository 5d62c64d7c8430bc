//! The golden cases that the project carries must all pass on every device, and a wrong fixture must not.

#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/golden")
}

#[allow(clippy::print_stdout)]
fn check(folder: &str, cases: usize) {
    let found = xtask::golden::find(&testdata().join(folder));
    assert_eq!(found.len(), cases, "cases in {folder}: {found:?}");
    for case in found {
        let report = xtask::golden::run(&case);
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn every_family_agrees_with_peft() {
    check("models", 58);
}

#[test]
fn adapter_variants_agree_with_peft() {
    check("variants", 18);
    check("variants_more", 10);
}

#[test]
fn full_fine_tuning_agrees_with_transformers() {
    check("full_ft", 18);
}

#[test]
fn adamw_and_schedules_agree_with_pytorch_and_a_run_with_its_trainer() {
    check("optim", 2);
}

#[test]
fn four_bit_bytes_are_those_of_bitsandbytes() {
    check("quant/four_bit", 1);
}

#[test]
fn whole_four_bit_models_agree_with_bitsandbytes() {
    for case in ["llama_nf4_dq", "llama_nf4_dq_bf16", "llama_fp4"] {
        check(&format!("quant/{case}"), 1);
    }
}

#[test]
fn eight_bit_rows_and_blocks_are_those_of_bitsandbytes() {
    check("quant/eight_bit", 1);
    check("quant/llama_int8", 1);
}

#[test]
fn eight_bit_adamw_agrees_with_bitsandbytes() {
    check("quant/adam8", 1);
}

#[test]
fn combined_adapters_agree_with_peft() {
    check("algebra", 1);
}

#[test]
fn gguf_files_agree_with_their_reference() {
    // A file of every architecture, and the blocks of each type.
    check("gguf", 33);
}

#[test]
fn a_case_without_its_files_fails() {
    let folder = std::env::temp_dir().join(format!("ferrotune-golden-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("case.json"), "{}").unwrap();
    let report = xtask::golden::run(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(!report.passed(), "{report}");
}
