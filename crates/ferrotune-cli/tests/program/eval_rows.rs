//! `eval` counts what it cuts and leaves out, and speaks of its own options.

use serde_json::{Value, json};

use super::helper::{Place, chats, model};

#[test]
fn answers_are_written_beside_what_was_expected() {
    let place = Place::new();
    let base = model("llama3_rope").display().to_string();
    place.write("rows.jsonl", &chats(3));
    let args =
        ["eval", &base, "--data", "rows.jsonl", "--max-new-tokens", "4", "--precision", "f32", "--answers"];
    let run = |file: &str| place.run(&[&args[..], &[file]].concat());
    let said = run("answers.jsonl").ok();
    assert!(said.stderr.contains("exact match") && said.stderr.contains("answers.jsonl"), "{said:?}");
    let lines: Vec<Value> =
        place.read("answers.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Vec<Value> = chats(3)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["messages"][1]["content"].clone())
        .collect();
    assert_eq!(lines.iter().map(|line| line["expected"].clone()).collect::<Vec<_>>(), expected);
    // The same prompt asked alone has the same answer.
    let row: Value = serde_json::from_str(chats(1).trim()).unwrap();
    let prompt = row["messages"][0]["content"].as_str().unwrap();
    let asked = [
        "generate",
        &base,
        "-p",
        prompt,
        "--max-new-tokens",
        "4",
        "--precision",
        "f32",
        "--temperature",
        "0",
    ];
    assert_eq!(lines[0]["answer"].as_str().unwrap(), place.run(&asked).ok().stdout.trim());
    run("nowhere/answers.jsonl").refused(&["nowhere/answers.jsonl"]);
    place.write("rows.jsonl", "{\"text\": \"the dog rests\"}\n");
    run("answers.jsonl").refused(&["--answers", "no row has a prompt and an answer"]);
    assert_eq!(place.read("answers.jsonl").lines().count(), 3, "an evaluation that fails changes nothing");
}

#[test]
fn eval_counts_what_it_cuts_and_names_its_own_options() {
    let place = Place::with_run("lora");
    let base = model("llama3_rope").display().to_string();
    let long = json!({"messages": [{"role": "user", "content": "the dog rests ".repeat(40)}, {"role": "assistant", "content": "b"}]});
    place.write("rows.jsonl", &format!("{}{long}\n", chats(3)));
    let args = ["eval", &base, "--data", "rows.jsonl", "--max-length", "64"];
    let out = place.run(&args).ok();
    assert!(out.stderr.contains("warning: 1 of 4 rows were cut to --max-length"), "{out:#?}");
    assert!(
        out.stderr.contains("warning: 1 of 4 rows have no supervised token and were left out"),
        "{out:#?}"
    );
    let result = place.run(&[&["--json"][..], &args].concat()).json();
    assert_eq!((&result["rows"], &result["report"]["dropped_unsupervised"]), (&json!(3), &json!(1)));
    place.write("rows.jsonl", &format!("{long}\n"));
    let out = place.run(&args).refused(&["--data", "no supervised token", "--max-length"]);
    assert!(!out.stderr.contains("data.train") && !out.stderr.contains("data.max_length"), "{out:#?}");
    // Rows behind the limit are not read.
    place.write("rows.jsonl", &format!("{}{{\"title\": 1}}\n", chats(3)));
    place.run(&["eval", &base, "--data", "rows.jsonl", "--limit", "3"]).ok();
    let many: String = (0..30).map(|_| "{\"title\": 1}\n").collect();
    place.write("rows.jsonl", &format!("{}{many}", chats(3)));
    let out = place.run(&["eval", &base, "--data", "rows.jsonl"]).refused(&["30 of 33 rows"]);
    assert!(!out.stderr.contains("data."), "eval has no run file: {out:#?}");
}
