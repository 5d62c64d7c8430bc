//! Files that are not the text they should be: what they are is said, and a mark before the text is no fault.

use std::path::Path;

use super::helper::{Place, model, utf16};

/// `preview` of a file of rows with these bytes is refused with these words, and none of a library's.
#[track_caller]
fn rows_refused(name: &str, bytes: &[u8], words: &[&str]) {
    let place = Place::with_run("lora");
    std::fs::write(place.path(name), bytes).expect("the rows");
    let set = format!("data.train={name}");
    let out = place.run(&["preview", "run.yaml", "--set", &set]).refused(words);
    for theirs in ["expected value", "expected ident", "EOF while"] {
        assert!(!out.stderr.contains(theirs), "{out:#?}");
    }
}

#[test]
fn binary_files_are_named_as_what_they_are() {
    for (name, bytes, kind) in [
        ("rows.zip", &b"PK\x03\x04\x14\x00"[..], "a zip file"),
        ("rows.arrow", b"ARROW1\x00\x00\xff", "an Arrow file"),
        ("rows.png", b"\x89PNG\r\n\x1a\n", "a PNG image"),
        ("rows.pdf", b"%PDF-1.7\n", "a PDF"),
        ("rows.jsonl", b"\xff\xfe\0\0{\0\0\0", "UTF-32 text"),
    ] {
        rows_refused(name, bytes, &[name, kind]);
    }
}

#[test]
fn what_is_not_json_is_said_in_our_words() {
    for (row, words) in [
        ("{\"text\": NaN}", &["rows.jsonl:1", "`NaN`", "column 10"][..]),
        ("{\"text\": -Infinity}", &["rows.jsonl:1", "`-Infinity`", "column 10"]),
        ("{'text': 'a'}", &["rows.jsonl:1", "single quotes", "column 2"]),
        ("{\"text\": True}", &["rows.jsonl:1", "`True`", "column 10"]),
        ("{\"text\": \"a\",}", &["rows.jsonl:1", "comma with nothing behind it"]),
        ("{\"text\": \"a", &["rows.jsonl:1", "ends in the middle"]),
    ] {
        rows_refused("rows.jsonl", row.as_bytes(), words);
    }
}

/// A copy of the tiny model with a mark before every JSON file of it.
fn marked(place: &Place) {
    let copy = place.copy_of(&model("llama3_rope"), "copy");
    mark_all(&copy);
}

fn mark_all(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read(&path).expect("the file");
            std::fs::write(&path, [b"\xef\xbb\xbf", text.as_slice()].concat()).expect("the file");
        }
    }
}

#[test]
fn a_byte_order_mark_before_json_is_accepted() {
    let place = Place::with_run("lora");
    marked(&place);
    let set = ["--set", "model.base=copy", "--set", "train.max_steps=1"];
    place.run(&[&["train", "run.yaml"][..], &set].concat()).ok();
    mark_all(&place.path("out"));
    place.run(&["eval", "out", "--data", "rows.jsonl", "--limit", "2"]).ok();
    place.run(&["merge", "out", "--output", "merged"]).ok();
}

#[test]
fn run_files_that_are_not_utf8_are_named() {
    let place = Place::with_run("lora");
    let text = place.read("run.yaml");
    for (bytes, words) in [
        (utf16(&format!("\u{feff}{text}"), u16::to_le_bytes), &["run.yaml", "UTF-16"][..]),
        (utf16(&text, u16::to_le_bytes), &["run.yaml", "UTF-16"]),
        (b"model: { base: m }\nx-note: \xe9t\xe9\n".to_vec(), &["run.yaml", "not UTF-8", "line 2"]),
        (b"PAR1\x15\x04".to_vec(), &["run.yaml", "Parquet"]),
    ] {
        std::fs::write(place.path("run.yaml"), bytes).expect("the run file");
        place.run(&["preview", "run.yaml"]).refused(words);
    }
}

#[test]
fn a_key_that_is_there_twice_is_named_with_its_line() {
    let place = Place::with_run("lora");
    for (name, text, line) in [
        ("run.yaml", "model: { base: m }\ntrain:\n  lr: 1\n  lr: 2\n", "line 4"),
        ("run.json", "{\"model\": {\"base\": \"m\"},\n \"train\": {\"lr\": 1,\n \"lr\": 2}}", "line 3"),
        ("run.toml", "[train]\nlr = 1\nlr = 2\n", "line 3"),
    ] {
        place.write(name, text);
        let out = place.run(&["preview", name]).refused(&[name, "lr", line]);
        assert!(!out.stderr.contains("DuplicateKeyPolicy"), "{out:#?}");
    }
}
