//! `data`: what the report says of rows with known faults, and the page that shows it.

use serde_json::{Value, json};

use super::helper::{Out, Place};

fn chat(question: &str, answer: &str) -> String {
    let message = |role: &str, content: &str| json!({"role": role, "content": content});
    format!("{}\n", json!({"messages": [message("user", question), message("assistant", answer)]}))
}

/// Sixty rows without a fault, in English.
fn sound() -> Vec<String> {
    const THINGS: [&str; 6] = ["boiler", "printer", "invoice", "delivery", "password form", "refund"];
    const PLACES: [&str; 10] = [
        "office",
        "kitchen",
        "basement",
        "garage",
        "warehouse",
        "lobby",
        "garden",
        "attic",
        "workshop",
        "archive",
    ];
    let row = |i: usize| {
        let (thing, place) = (THINGS[i % 6], PLACES[i / 6]);
        let question = format!("Number {i}: what should I do about the {thing} in the {place}?");
        let answer = match i % 3 {
            0 => format!(
                "Please call the people of the {place} and tell them that the {thing} needs care, case {i}."
            ),
            1 => format!(
                "Nothing has to be done, because somebody looks after every {thing} of the {place} on day {i}."
            ),
            _ => format!(
                "Write down what happened with it near the {place}, then bring {i} copies to our desk for the {thing}."
            ),
        };
        chat(&question, &answer)
    };
    (0..60).map(row).collect()
}

fn place(rows: &[String]) -> Place {
    let place = Place::with_run("lora");
    place.write("rows.jsonl", &rows.concat());
    let run = place.read("run.yaml").replace("max_length: 128", "max_length: 512");
    place.write("run.yaml", &run);
    place
}

fn report(place: &Place, more: &[&str]) -> Value {
    place.run(&[&["data", "run.yaml", "--json"], more].concat()).json()
}

fn texts(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|f| f["text"].as_str().unwrap()).collect()
}

#[test]
fn sound_rows_have_no_findings() {
    let place = place(&sound());
    let found = report(&place, &["--set", "data.eval=10%"]);
    assert_eq!(texts(&found), [] as [&str; 0]);
    let (train, eval) = (&found["data"]["train"], &found["data"]["eval"]);
    assert_eq!((&train["report"]["kept"], &eval["report"]["kept"]), (&json!(54), &json!(6)));
    assert_eq!(found["data"]["languages"], json!({"English": 60}));
    let of = |part: &Value, name: &str| part["lengths"][name].as_u64().unwrap();
    assert!(of(train, "median") <= of(train, "p90") && of(train, "p99") <= of(train, "longest"));
    let bars = train["lengths"]["histogram"].as_array().unwrap();
    assert_eq!(bars.iter().map(|bar| bar["rows"].as_u64().unwrap()).sum::<u64>(), 54);
    assert_eq!(train["endings"][0]["rows"], 54);
    assert_eq!(train["endings"][0]["stops"], true);
    // What is forecast is what is trained.
    let run = place.run(&["train", "run.yaml", "--json", "--set", "data.eval=10%"]).json();
    assert_eq!((&found["run"]["steps"], &found["run"]["tokens"]), (&run["steps"], &run["tokens"]));
    assert_eq!(found["run"]["fits"], true);
    let told = place.run(&["data", "run.yaml"]).ok().stdout;
    assert!(told.contains("60 rows") && told.contains("nothing was found"), "{told}");
}

#[test]
fn every_planted_fault_is_found_and_its_row_named() {
    let mut rows = sound();
    let copy = |i: usize| rows[i].clone();
    let (copied, near, leaked) = (copy(3), copy(10).replace("somebody", "someone"), copy(20).to_uppercase());
    let (near_leak, question) = (
        copy(30).replace("call the", "phone the"),
        chat(
            "Number 40: what should I do about the password form in the garden?",
            "Something else entirely.",
        ),
    );
    rows.push(copied);
    rows.push(near);
    rows.push(chat(
        "Wie geht es dem Hund?",
        "Der Hund liegt in der Sonne und schläft, während die Katze auf dem Dach sitzt.",
    ));
    rows.push(chat("Who can help?", "Ask anna.berg@firma.example.org, or call her."));
    rows.push(chat("What is the key?", &format!("It is {}aB3dE6gH9jK2aB3dE6gH9jK2aB3dE6gH9jK2.", "ghp_")));
    rows.push(chat("What do you sell?", "We sell KÃ¤se."));
    rows.push(chat("What is it?", "It is bro\u{200b}ken."));
    let place = place(&rows);
    let leaked = leaked.replace("MESSAGES", "messages").replace("ROLE", "role").replace("CONTENT", "content");
    let leaked = leaked.replace("USER", "user").replace("ASSISTANT", "assistant");
    place.write(
        "eval.jsonl",
        &[leaked, near_leak, question, chat("Quite another question?", "Yes.")].concat(),
    );
    let found = report(&place, &["--set", "data.eval=eval.jsonl"]);
    let data = &found["data"];
    let pair = |value: &Value, row: &str, other: &str| {
        assert_eq!(*value, json!({"rows": 1, "first": [[row, other]]}), "{data:#}");
    };
    pair(&data["duplicates"]["exact"], "rows.jsonl:61", "rows.jsonl:4");
    pair(&data["duplicates"]["near"], "rows.jsonl:62", "rows.jsonl:11");
    pair(&data["leakage"]["exact"], "eval.jsonl:1", "rows.jsonl:21");
    pair(&data["leakage"]["near"], "eval.jsonl:2", "rows.jsonl:31");
    pair(&data["leakage"]["questions"], "eval.jsonl:3", "rows.jsonl:41");
    let one = |value: &Value, row: &str| assert_eq!(*value, json!({"rows": 1, "first": [row]}), "{data:#}");
    one(&data["other_language"], "rows.jsonl:63");
    one(&data["sensitive"]["e-mail address"], "rows.jsonl:64");
    one(&data["sensitive"]["GitHub token"], "rows.jsonl:65");
    one(&data["oddities"]["wrong_encoding"], "rows.jsonl:66");
    one(&data["oddities"]["invisible_characters"], "rows.jsonl:67");
    let out = place.run(&["data", "run.yaml", "--set", "data.eval=eval.jsonl"]).ok();
    for word in
        ["1 of the held-out rows are in training too", "rows.jsonl:65", "GitHub token", "rows.jsonl:63"]
    {
        assert!(out.stdout.contains(word), "{word}: {out:#?}");
    }
    let everything = format!("{out:#?}{found}");
    assert!(
        !everything.contains("anna.berg") && !everything.contains("ghp_"),
        "what was found is not repeated"
    );
}

#[test]
fn a_held_out_share_is_compared_with_what_is_trained() {
    let rows: Vec<String> = sound().into_iter().flat_map(|row| [row.clone(), row]).collect();
    let place = place(&rows);
    let found = report(&place, &["--set", "data.eval=0.25"]);
    let (train, leaked) = (&found["data"]["duplicates"]["exact"], &found["data"]["leakage"]["exact"]);
    let count = |value: &Value| value["rows"].as_u64().unwrap();
    // Each row is there twice: both in training, one in each, or both held out.
    assert!(count(leaked) > 10 && count(train) + count(leaked) <= 60, "{found:#}");
}

#[test]
fn the_page_is_one_file_and_shows_data_as_text() {
    let mut rows = sound();
    rows.insert(0, chat("<script>alert(1)</script> {{ 7 * 7 }}", "No <b>markup</b>."));
    let place = place(&rows);
    let Out { stderr, .. } = place.run(&["data", "run.yaml", "--html", "page.html"]).ok();
    assert!(stderr.contains("page.html"), "{stderr}");
    let page = place.read("page.html");
    assert!(page.contains("class=\"histogram\"") && page.matches("title=\"up to").count() >= 10);
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>"), "{page}");
    assert!(page.contains("{{ 7 * 7 }}") && page.contains("<mark>"));
    for outside in ["http://", "https://", "<link", "url(", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    place.run(&["data", "run.yaml", "--html", "no/such/page.html"]).refused(&["no/such/page.html"]);
    place.run(&["data", "missing.yaml"]).refused(&["missing.yaml"]);
}
