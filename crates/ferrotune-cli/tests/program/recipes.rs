//! Recipes from the folder that is written to the table that is measured, with the built-in model.

use serde_json::Value;

use super::helper::{Place, names};

const RECIPES: [&str; 4] = ["chatbot", "code", "voice", "finance"];

/// Few steps of few rows.
const SMALL: [&str; 8] = [
    "--set",
    "train.max_steps=12",
    "--set",
    "train.batch_rows=8",
    "--set",
    "data.max_length=256",
    "--set",
    "train.lr=5e-3",
];

#[test]
fn the_recipes_are_listed_and_an_unknown_one_lists_them() {
    let place = Place::new();
    let listed = place.run(&["recipe"]).ok().stdout;
    for name in RECIPES {
        assert!(listed.lines().any(|line| line.starts_with(name)), "{name}: {listed}");
    }
    let entries = place.run(&["recipe", "--json"]).json();
    let entries: Vec<&str> =
        entries["recipes"].as_array().unwrap().iter().flat_map(|r| r["name"].as_str()).collect();
    assert_eq!(entries, RECIPES);
    place.run(&["recipe", "chatbott"]).misused(&["chatbott", "'chatbot'"]);
    place.run(&["recipe", "poetry"]).misused(&["poetry", "chatbot", "code", "voice", "finance"]);
    place.run(&["recipe", "voice", "--set", "train.lr=1"]).misused(&["--run"]);
    assert!(names(&place.path(".")).is_empty());
}

#[test]
fn a_folder_with_files_in_it_is_refused() {
    let place = Place::new();
    place.write("mine/notes.txt", "mine");
    place.run(&["recipe", "voice", "--output", "mine"]).refused(&["mine", "exists already"]);
    assert_eq!(names(&place.path("mine")), ["notes.txt"]);
    // An empty one is as good as none; the standard one is refused the second time.
    std::fs::create_dir(place.path("recipe-voice")).unwrap();
    place.run(&["recipe", "voice"]).ok();
    place.run(&["recipe", "voice"]).refused(&["recipe-voice", "exists already"]);
}

#[test]
fn what_is_written_is_previewed_trained_and_evaluated() {
    for name in RECIPES {
        let place = Place::new();
        let written = place.run(&["recipe", name, "--json"]).json();
        for file in written["files"].as_array().unwrap() {
            assert!(!place.read(&format!("recipe-{name}/{}", file.as_str().unwrap())).is_empty());
        }
        let next: Vec<&str> = written["next"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        let readme = place.read(&format!("recipe-{name}/README.md"));
        assert!(next.iter().all(|command| readme.contains(command)), "{next:?} {readme}");
        let run = |command: &str, more: &[&str]| {
            let words = command.split(' ').skip(1).collect::<Vec<_>>();
            place.run(&[&words[..], more].concat())
        };
        // The commands as they are said, in their order; the last one asks the result.
        run(next[0], &[]).ok();
        let small: Vec<&str> = [&SMALL[2..], &["--set", "train.max_steps=2"]].concat();
        let trained = run(next[1], &[&small[..], &["--json"]].concat()).json();
        assert_eq!(trained["steps"], 2, "{name}");
        assert!(trained["eval_loss"].is_f64(), "the test is data.eval: {trained}");
        let measured = run(next[2], &["--json", "--limit", "2", "--max-length", "128"]).json();
        assert_eq!(measured["rows"], 2, "{name}");
        assert_eq!(measured["exact_match"].is_f64(), ["chatbot", "finance"].contains(&name), "{measured}");
        run(next[3], &["--max-new-tokens", "2"]).ok();
    }
}

#[test]
fn the_code_base_is_a_folder_of_source_files_with_their_places() {
    let place = Place::new();
    place.run(&["recipe", "code"]).ok();
    let files =
        |side: &str, thing: &str| names(&place.path(&format!("recipe-code/code-{side}/stock/{thing}")));
    let folders = |side: &str| names(&place.path(&format!("recipe-code/code-{side}/stock")));
    assert_eq!((folders("train").len(), folders("test")), (8, vec!["reservation".into(), "transfer".into()]));
    assert_eq!(files("train", "shelf"), ["record.py", "service.py", "store.py"]);
    let shown = place.run(&["preview", "recipe-code/run.yaml", "--json"]).json();
    assert_eq!(shown["report"]["shapes"], serde_json::json!({"source files": 24}), "{shown}");
    let pieces = shown["rows"][0]["pieces"].as_array().unwrap();
    let first: String = pieces.iter().flat_map(|piece| piece["text"].as_str()).collect();
    assert!(first.contains("count_sheet/record.py") && first.contains("class CountSheetRecord:"), "{first}");
}

/// Runs a recipe small; its result.
fn small_run(place: &Place, name: &str, more: &[&str]) -> Value {
    let args =
        [&["recipe", name, "--run", "--limit", "4", "--json", "--output", "r"][..], &SMALL, more].concat();
    let result = place.run(&args).json();
    assert_eq!(place.json("r/result/recipe.json"), result);
    for key in ["model", "measure", "rows", "steps", "tokens_per_second", "peak_rss_bytes", "seconds"] {
        assert!(!result[key].is_null(), "{key} is not in {result}");
    }
    let first = result["first_loss"].as_f64().unwrap();
    assert!(result["loss"].as_f64().unwrap() < first, "the loss falls: {result}");
    result
}

/// A number of a result.
fn number(result: &Value, key: &str) -> f64 {
    result[key].as_f64().unwrap_or_else(|| panic!("{key}: {result}"))
}

#[test]
fn losses_of_texts_fall_by_more_than_their_error() {
    for name in ["voice", "code"] {
        let place = Place::new();
        let result = small_run(&place, name, &[]);
        assert_eq!((result["measure"].as_str(), &result["rows"]), (Some("loss"), &Value::from(4)));
        let (before, after) = (number(&result, "before"), number(&result, "after"));
        let (difference, error) =
            (number(&result, "difference"), number(&result, "difference_standard_error"));
        assert!((after - before - difference).abs() < 1e-9, "{result}");
        assert!(difference < -2.0 * error && error > 0.0, "{result}");
        assert!((number(&result, "perplexity_after") - after.exp()).abs() < 1e-9);
    }
}

#[test]
fn each_text_counts_the_same_in_the_mean() {
    let place = Place::new();
    let result = small_run(&place, "voice", &[]);
    // Sum of losses and number of tokens of the first n texts, by the command that knows nothing of recipes.
    let sums: Vec<(f64, f64)> = (1..=4)
        .map(|n: usize| {
            let n = n.to_string();
            let args = [
                "eval",
                "r/result",
                "--data",
                "r/articles-test",
                "--max-length",
                "256",
                "--json",
                "--limit",
                &n,
            ];
            let out = place.run(&args).json();
            let tokens = number(&out, "eval_label_tokens");
            (number(&out, "eval_loss") * tokens, tokens)
        })
        .collect();
    let before = [&[(0.0, 0.0)][..], &sums].concat();
    let mean = before.iter().zip(&sums).map(|(a, b)| (b.0 - a.0) / (b.1 - a.1)).sum::<f64>() / 4.0;
    assert!((number(&result, "after") - mean).abs() < 1e-4, "{mean}: {result}");
}

#[test]
fn answers_are_counted_for_each_test_and_for_all() {
    let place = Place::new();
    let result = small_run(&place, "finance", &["--set", "data.max_length=384"]);
    assert_eq!((result["measure"].as_str(), &result["rows"]), (Some("exact_match"), &Value::from(8)));
    let parts = result["parts"].as_array().unwrap();
    let part_names: Vec<&str> = parts.iter().flat_map(|part| part["name"].as_str()).collect();
    assert_eq!(part_names, ["concepts-test.jsonl", "reports-test.jsonl"]);
    let mean = parts.iter().map(|part| number(part, "after")).sum::<f64>() / 2.0;
    assert!((number(&result, "after") - mean).abs() < 1e-9, "{result}");
}

#[test]
fn what_was_learned_is_answered_exactly() {
    let place = Place::new();
    // Two of the four questions that are asked are learned by heart, in full.
    let learned = "data.sources=[{path: r/faq-test.jsonl, rows: 2}]";
    let more = [
        "data.train=[]",
        learned,
        "method.kind=full",
        "train.max_steps=50",
        "train.batch_rows=2",
        "train.eval_every=50",
    ];
    let more: Vec<&str> = more.iter().flat_map(|set| ["--set", set]).collect();
    let result = small_run(&place, "chatbot", &more);
    assert_eq!((number(&result, "before"), number(&result, "after")), (0.0, 0.5), "{result}");
    assert_eq!(number(&result, "after_standard_error"), 0.25);
    assert!((number(&result, "difference_standard_error") - (1.0_f64 / 12.0).sqrt()).abs() < 1e-9);
    let again = ["eval", "r/result", "--data", "r/faq-test.jsonl", "--limit", "4", "--exact-match", "--json"];
    assert_eq!(number(&place.run(&again).json(), "exact_match"), 0.5);
}

#[test]
fn a_recipe_that_cannot_be_measured_says_so() {
    let place = Place::new();
    let run = |more: &[&str]| place.run(&[&["recipe", "chatbot", "--run"][..], more].concat());
    run(&["--output", "a", "--set", "data.eval=5%"]).refused(&["data.eval", "files"]);
    run(&["--output", "b", "--set", "train.lrr=1"]).refused(&["train.lrr"]);
    run(&["--output", "c", "--model", "./nowhere"]).refused(&["nowhere"]);
    run(&["--output", "e", "--set", "data.max_length=40"]).refused(&[
        "data.max_length",
        "found 40",
        "faq-test.jsonl",
    ]);
    let zero = run(&["--output", "d", "--limit", "0"]);
    assert!(zero.code == Some(1) && zero.stderr.contains("--limit: found 0"), "{zero:?}");
}
