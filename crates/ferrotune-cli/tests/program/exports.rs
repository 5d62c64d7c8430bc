//! What stands in results beside the weights.
#![cfg(unix)]

use super::helper::{Place, model, run_file};

#[test]
fn results_have_the_tokenizer_that_the_run_began_with() {
    use std::time::{Duration, Instant};
    let place = Place::with_run("lora");
    let base = place.copy_of(&model("llama3_rope"), "base");
    place.write("run.yaml", &run_file(&base, "lora"));
    let files =
        ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];
    let expected: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(base.join(f)).expect("a file")).collect();

    let mut run = place.start(&["train", "run.yaml", "--set", "train.epochs=100000"]);
    let end = Instant::now() + Duration::from_secs(60);
    while !place.path("out/metrics.jsonl").exists() {
        assert!(Instant::now() < end && run.try_wait().expect("the process").is_none(), "no step");
        std::thread::sleep(Duration::from_millis(5));
    }
    // Another model is put in its place while it trains, without some of the files.
    std::fs::write(base.join("tokenizer.json"), "{}").expect("a file");
    std::fs::write(base.join("tokenizer_config.json"), "{}").expect("a file");
    std::fs::remove_file(base.join("special_tokens_map.json")).expect("a file");
    let sent = std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(sent.expect("kill").success());
    assert_eq!(run.wait().expect("the process").code(), Some(130));
    for (file, expected) in files[..3].iter().zip(&expected) {
        assert!(place.bytes(&format!("out/{file}")) == *expected, "{file} is not the one of the start");
    }
}
