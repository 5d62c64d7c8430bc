//! The same rows in every container: the same tokens, the same run, the same bytes of the adapter. What is damaged in a
//! container is named.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use super::helper::{Place, model, run_file, utf16};

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/rows").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn jsonl() -> String {
    String::from_utf8(fixture("rows.jsonl")).expect("UTF-8")
}

fn rows() -> Vec<Value> {
    jsonl().lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).expect("in memory");
    writer.finish().expect("in memory")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("in memory")
}

/// The rows as a table with this separator; lists are the text of JSON.
fn table(separator: char) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let line = |row: Value| {
        let source = row["source"].as_str().expect("text").to_string();
        format!("{}{separator}{}\r\n", quoted(&row["messages"].to_string()), quoted(&source))
    };
    // An empty line, and what a spreadsheet leaves behind the last row.
    let lines: String = rows().into_iter().map(line).collect();
    format!("messages{separator} source\r\n\r\n{lines}{separator}\r\n")
}

/// All forms of the rows by the names of their files.
fn forms() -> Vec<(&'static str, Vec<u8>)> {
    let text = jsonl();
    let array = Value::Array(rows());
    let object = json!({"version": "1.0", "note": ["a", "b"], "data": array});
    let mut forms = vec![
        ("rows.jsonl", text.clone().into_bytes()),
        ("crlf.jsonl", text.replace('\n', "\r\n").into_bytes()),
        ("mark.jsonl", format!("\u{feff}{text}").into_bytes()),
        ("utf16.jsonl", utf16(&format!("\u{feff}{text}"), u16::to_le_bytes)),
        ("big.jsonl", utf16(&format!("\u{feff}{text}"), u16::to_be_bytes)),
        ("unmarked.jsonl", utf16(&text, u16::to_le_bytes)),
        ("rows.jsonl.gz", gzip(text.as_bytes())),
        ("rows.jsonl.zst", zstd(text.as_bytes())),
        // The content tells what it is, not the name.
        ("packed", zstd(&utf16(&format!("\u{feff}{text}"), u16::to_le_bytes))),
        ("array.json", array.to_string().into_bytes()),
        ("pretty.json", format!("{array:#}").into_bytes()),
        ("object.json", object.to_string().into_bytes()),
        ("pretty-object.json", format!("{object:#}\n").into_bytes()),
        ("object.json.gz", gzip(object.to_string().as_bytes())),
        ("rows.csv", fixture("rows.csv")),
        ("semicolons.csv", table(';').into_bytes()),
        ("rows.tsv", table('\t').into_bytes()),
        ("bars.CSV", format!("\u{feff}{}", table('|')).into_bytes()),
        ("utf16.csv", utf16(&format!("\u{feff}{}", table('\t')), u16::to_le_bytes)),
        ("rows.csv.gz", gzip(&fixture("rows.csv"))),
        ("rows.parquet.gz", gzip(&fixture("rows.parquet"))),
        ("json.csv", text.into_bytes()),
    ];
    for name in
        ["rows.parquet", "rows-plain.parquet", "rows-zstd.parquet", "rows-large.parquet", "rows-text.parquet"]
    {
        forms.push((name, fixture(name)));
    }
    forms
}

#[test]
fn the_same_rows_in_every_container_are_the_same_run() {
    let place = Place::new();
    place.write(
        "run.yaml",
        &run_file(&model("llama3_rope"), "lora").replace("max_length: 128", "max_length: 512"),
    );
    let mut first = None;
    for (name, bytes) in forms() {
        std::fs::write(place.path(name), bytes).expect("the rows");
        let data = format!("data.train={name}");
        let out = format!("output.dir=out-{name}");
        let shown = place.run(&["--json", "preview", "run.yaml", "-n", "1000", "--set", &data]).json();
        assert_eq!(shown["rows"].as_array().map(Vec::len), Some(200), "{name}");
        let pieces: Vec<&Value> =
            shown["rows"].as_array().into_iter().flatten().map(|row| &row["pieces"]).collect();
        place.run(&["train", "run.yaml", "--set", &data, "--set", &out, "--set", "train.max_steps=2"]).ok();
        let run = format!("out-{name}");
        let weights = place.bytes(&format!("{run}/adapter_model.safetensors"));
        let found = (json!(pieces), place.losses(&run), weights);
        let expected: &mut (Value, Vec<_>, Vec<_>) = first.get_or_insert_with(|| found.clone());
        assert!(expected.0 == found.0, "{name}: other tokens");
        assert_eq!(expected.1, found.1, "{name}: other losses");
        assert!(expected.2 == found.2, "{name}: another adapter");
    }
}

/// `preview` of a file with these bytes is refused with these words.
#[track_caller]
fn refused(name: &str, bytes: &[u8], words: &[&str]) {
    let place = Place::with_run("lora");
    std::fs::write(place.path(name), bytes).expect("the rows");
    place.run(&["preview", "run.yaml", "--set", &format!("data.train={name}")]).refused(words);
}

#[test]
fn damaged_containers_are_named() {
    let packed = gzip(jsonl().as_bytes());
    let parquet = fixture("rows.parquet");
    let mut halves = utf16(&jsonl(), u16::to_le_bytes);
    halves.pop();
    for (name, bytes, words) in [
        ("rows.jsonl.gz", &packed[..packed.len() - 9], &["rows.jsonl.gz", "gzip", "cut off"][..]),
        ("rows.jsonl.zst", &zstd(jsonl().as_bytes())[..100], &["rows.jsonl.zst", "zstd", "cut off"]),
        ("rows.parquet", &parquet[..parquet.len() - 1], &["rows.parquet", "Parquet file cannot be read"]),
        ("rows.parquet", &parquet[..4], &["rows.parquet", "Parquet file cannot be read"]),
        (
            "numbers.parquet",
            &fixture("numbers.parquet"),
            &["numbers.parquet:1", "`text` is a number, expected text"],
        ),
        ("brotli.parquet", &fixture("brotli.parquet"), &["brotli.parquet", "brotli", "zstd"]),
        ("rows.jsonl", &halves, &["rows.jsonl", "not UTF-16 throughout"]),
        ("rows.csv", b"text\na\n\"b\nc\n", &["rows.csv:3", "no closing quote"]),
        ("rows.csv", b"text\n\xff\n", &["rows.csv:2", "not UTF-8"]),
        ("rows.csv", b"text,text\na,b\n", &["rows.csv:1", "two columns have the name `text`"]),
        ("rows.csv", b"text\none, two\n", &["rows.csv:2", "2 values for 1 columns", "quotes"]),
        ("rows.csv", b"text\n", &["rows.csv", "there are no rows"]),
        ("rows.csv", b"", &["rows.csv", "there are no rows"]),
        ("rows.csv", b"prompt,completion\na,\n", &["rows.csv:2", "`completion` (null)"]),
        (
            "two.json",
            b"{\"train\": [{\"text\": \"a\"}], \"test\": [{\"text\": \"b\"}]}",
            &["two.json", "several keys", "`train`, `test`"],
        ),
        (
            "object.json",
            b"{\"data\": [{\"text\": \"a\"},\n{\"text\": }]}",
            &["object.json:2", "not valid JSON"],
        ),
    ] {
        refused(name, bytes, words);
    }
}

/// A row that holds a list of objects is a row, not an object with rows under a key.
#[test]
fn one_row_with_a_list_is_one_row() {
    let place = Place::with_run("lora");
    let row = "{\"source\": \"s\", \"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}";
    place.write("rows.jsonl", row);
    assert_eq!(place.preview_again(&[]).texts.len(), 1);
    // Other lists of objects make no document of two lines.
    place.write("rows.jsonl", &"{\"ids\": [{\"n\": 1}], \"text\": \"a\"}\n".repeat(2));
    assert_eq!(place.preview_again(&[]).texts.len(), 2);
}
