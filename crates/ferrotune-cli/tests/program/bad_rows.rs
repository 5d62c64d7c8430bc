//! Rows that cannot be used are told together, or left out and counted where the run file asks for that.

use serde_json::json;

use super::helper::{PLAIN, Place, chats};

/// Rows 2 and 4 cannot be read, row 5 cannot be rendered.
fn rows() -> String {
    let good: Vec<String> = chats(6).lines().map(str::to_string).collect();
    let odd =
        json!({"messages": [{"role": "user", "content": "refuse"}, {"role": "assistant", "content": "x"}]});
    [&good[0], "{\"messages\": [", &good[1], "{\"title\": 1}", &odd.to_string(), &good[2], ""].join("\n")
}

fn place() -> Place {
    let refuses = format!(
        "{{% if messages[0].content == 'refuse' %}}{{{{ raise_exception('not this') }}}}{{% endif %}}{PLAIN}"
    );
    let place = Place::with_template(&refuses);
    place.write("rows.jsonl", &rows());
    place
}

#[test]
fn all_of_them_are_told_with_file_line_and_reason() {
    let place = place();
    let out = place.run(&["train", "run.yaml"]).refused(&[
        "3 of 6 rows",
        "rows.jsonl:2: not valid JSON",
        "rows.jsonl:4: no known shape",
        "rows.jsonl:5:",
        "not this",
        "data.bad_rows=skip",
    ]);
    assert!(!place.path("out").exists(), "{out:#?}");
    let many: String = (0..30).map(|_| "{\"title\": 1}\n").collect();
    place.write("rows.jsonl", &format!("{}{many}", chats(3)));
    let out =
        place.run(&["preview", "run.yaml"]).refused(&["30 of 33 rows", "rows.jsonl:23:", "and 10 more"]);
    assert!(!out.stderr.contains("rows.jsonl:24:"), "{out:#?}");
}

#[test]
fn skipping_goes_on_and_counts_them() {
    let place = place();
    let shown = place.preview_again(&["data.bad_rows=skip"]);
    assert_eq!((shown.texts.len(), &shown.report["bad_rows"]), (3, &json!(3)));
    assert!(shown.warns(&["3 of 6 rows cannot be used and were left out", "rows.jsonl:5:"]), "{shown:#?}");
    let set = ["--set", "data.bad_rows=skip", "--set", "train.max_steps=1"];
    let out = place.run(&[&["train", "run.yaml"][..], &set].concat()).ok();
    assert!(out.stderr.contains("warning: 3 of 6 rows"), "{out:#?}");
    assert!(place.read("out/run.yaml").contains("bad_rows: skip"));
    let set = ["--set", "train.max_steps=1", "--set", "output.dir=out2"];
    place.write("rows.jsonl", &chats(3));
    place.run(&[&["train", "run.yaml"][..], &set].concat()).ok();
    assert!(!place.read("out2/run.yaml").contains("bad_rows"));
    place
        .run(&["preview", "run.yaml", "--set", "data.bad_rows=ignore"])
        .refused(&["data.bad_rows", "ignore"]);
    place.write("rows.jsonl", "{\"title\": 1}\n{\"title\": 2}\n");
    place.run(&["preview", "run.yaml", "--set", "data.bad_rows=skip"]).refused(&["2 of 2 rows"]);
}
