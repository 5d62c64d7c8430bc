//! Adapter folders and what is made of them.

use super::helper::{Place, golden, model, run_file};

#[test]
fn nothing_is_written_over() {
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    place.run(&["train", "run.yaml", "--set", "train.max_steps=1"]).ok();
    place.write("notes/README.md", "mine");
    std::fs::create_dir(place.path("empty")).expect("a folder");
    let peft = golden("models/llama3_rope/adapter").display().to_string();
    for taken in ["notes", "base", "out", "run.yaml"] {
        for args in [&["merge", "out"][..], &["combine", &peft], &["quantize", "base"]] {
            let before = std::fs::read_dir(place.path(".")).expect("a folder").count();
            let args = [args, &["--output", taken]].concat();
            place.run(&args).refused(&[taken, "exists already"]);
            assert_eq!(std::fs::read_dir(place.path(".")).expect("a folder").count(), before);
        }
    }
    assert_eq!(place.read("notes/README.md"), "mine");
    place.run(&["merge", "out", "--output", "empty"]).ok();
    assert!(place.path("empty/model.safetensors").exists());
}
