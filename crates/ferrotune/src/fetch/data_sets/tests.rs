//! Files of splits as `datasets` 5.2 takes them (`testdata/data_sets`, made by `make/data_sets.py`), and what is refused.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::card::{CardConfig, configs};
use super::choose::{Choice, Problem, choose, converted};
use super::name::Name;
use super::splits::{Splits, by_names, looks_like_rows, missing_shard};
use crate::data::rows::holds_rows;

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    card: String,
    #[serde(default)]
    config: String,
    files: Vec<String>,
    splits: Splits,
}

fn cases(name: &str) -> Vec<Case> {
    let path = format!("{}/../../testdata/data_sets/{name}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap().unwrap()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| name.to_string()).collect()
}

#[test]
fn splits_by_the_names_of_files() {
    let cases = cases("splits");
    assert!(cases.len() > 30);
    for case in cases {
        assert_eq!(by_names(&case.files, ""), case.splits, "{:?}", case.files);
        // The same below a folder, of which another one says nothing.
        let moved = |file: &String| format!("train/{file}");
        let below = case.files.iter().map(moved).chain(["test/x.csv".to_string()]).collect::<Vec<_>>();
        let splits: Splits = case
            .splits
            .into_iter()
            .map(|(split, files)| (split, files.iter().map(moved).collect()))
            .collect();
        assert_eq!(by_names(&below, "train"), splits, "{below:?}");
    }
}

#[test]
fn splits_by_the_card() {
    for case in cases("cards") {
        let card = configs(&case.card).unwrap();
        let declared: BTreeMap<&str, &Vec<String>> =
            case.splits.iter().map(|(split, files)| (split.as_str(), files)).collect();
        for (split, files) in declared {
            let found = choose(&case.files, &card, &name(&format!("a/b:{}:{split}", case.config))).unwrap();
            assert_eq!(found.files, *files, "{}", case.card);
            assert_eq!((found.config.as_deref(), found.split.as_deref()), (Some(&*case.config), Some(split)));
        }
    }
}

#[test]
fn what_is_read_is_what_is_taken() {
    for file in
        ["a.jsonl", "a.ndjson", "a.json", "a.csv", "a.tsv", "a.tab", "a.parquet", "a.JSONL.gz", "a.csv.zst"]
    {
        assert!(holds_rows(std::path::Path::new(file)), "{file}");
        assert!(looks_like_rows(file), "{file}");
        assert_eq!(by_names(&names(&[file]), "").len(), 1, "{file}");
    }
    for file in ["a.py", "a.zip", "a.arrow", "a.jsonl.bz2", "parquet", "a.md"] {
        assert!(!holds_rows(std::path::Path::new(file)), "{file}");
        assert!(by_names(&names(&[file]), "").is_empty(), "{file}");
    }
}

#[track_caller]
fn refused(result: Result<Choice, Problem>, words: &[&str]) {
    let Err(Problem::Refused(problem, hint)) = result else { panic!("{result:?}") };
    for word in words {
        assert!(problem.contains(word) || hint.contains(word), "`{word}`: {problem}; {hint}");
    }
}

fn card(list: &[(&str, bool)]) -> Vec<CardConfig> {
    let one = |(name, default): &(&str, bool)| {
        let files =
            Some(vec![("train".to_string(), names(&["a.csv"])), ("dev".to_string(), names(&["b.csv"]))]);
        CardConfig { name: name.to_string(), default: *default, files, folder: None }
    };
    list.iter().map(one).collect()
}

#[test]
fn the_default_config_is_one_or_the_choice_is_the_users() {
    let files = names(&["a.csv", "b.csv"]);
    for list in [&[("x", false)][..], &[("y", false), ("x", true)], &[("x", false), ("default", false)]] {
        let found = choose(&files, &card(list), &name("a/b")).unwrap();
        assert_eq!(found.files, ["a.csv"], "{list:?}");
    }
    let several = card(&[("main", false), ("socratic", false)]);
    refused(choose(&files, &several, &name("a/b:dev")), &["main, socratic", "a/b:main:dev"]);
    refused(choose(&files, &several, &name("a/b:other:dev")), &["no config `other`", "main, socratic"]);
    refused(choose(&files, &several, &name("a/b:main:test")), &["no split `test`", "train, dev"]);
    refused(choose(&files, &card(&[("x", false)]), &name("a/b:x")), &["no split `x`", "a/b:CONFIG:train"]);
    refused(choose(&files, &card(&[("x", false)]), &name("a/b:train[:10%]")), &["slices", "`rows`"]);
    refused(choose(&files, &card(&[("x", true), ("y", true)]), &name("a/b")), &["several default"]);
}

#[test]
fn files_folders_and_patterns_of_a_repository() {
    let files = names(&["data/en/test.csv", "data/en/train.csv", "data/fr/x.csv", "README.md", "x.bin"]);
    let of = |inside: &str| choose(&files, &[], &name(&format!("hf://datasets/a/b/{inside}")));
    assert_eq!(of("data/en").unwrap().files, ["data/en/train.csv"]);
    assert_eq!(of("data/*/t*.csv").unwrap().files, ["data/en/test.csv", "data/en/train.csv"]);
    assert_eq!(of("data/**").unwrap().files.len(), 3);
    assert!(matches!(of("data/de"), Err(Problem::Unreadable(_))));
    assert!(matches!(of("*.bin"), Err(Problem::Unreadable(_))));
    refused(of("[x"), &["pattern"]);
    let with = |inside: &str, config: Option<&str>, split: Option<&str>| {
        let plain = name(&format!("hf://datasets/a/b/{inside}"));
        let text = |part: Option<&str>| part.map(str::to_string);
        choose(&files, &[], &Name { config: text(config), split: text(split), ..plain })
    };
    assert_eq!(with("data/en", None, Some("test")).unwrap().files, ["data/en/test.csv"]);
    refused(with("data/en/test.csv", None, Some("test")), &["no split"]);
    refused(with("data/en", Some("en"), None), &["no config"]);
}

#[test]
fn what_no_one_reads_is_not_taken_from_elsewhere_silently() {
    for path in ["gone.csv", "x.zip", "https://elsewhere/x.csv", "hf://datasets/c/d/x.csv", "*.csv"] {
        let mut card = card(&[("x", true)]);
        card[0].files = Some(vec![("train".to_string(), names(&[path]))]);
        let found = choose(&names(&["x.zip", "a.jsonl"]), &card, &name("a/b"));
        assert!(matches!(found, Err(Problem::Unreadable(_))), "{path}: {found:?}");
    }
    let named = choose(&names(&["a.jsonl"]), &[], &name("a/b:x:train"));
    assert!(matches!(named, Err(Problem::Unreadable(_))), "{named:?}");
}

#[test]
fn the_converted_branch() {
    let files = names(&[
        "c/test/0000.parquet",
        "c/train/0000.parquet",
        "c/train/0001.parquet",
        "d/train/0000.parquet",
    ]);
    let found = converted(&files, &name("a/b:c:train")).unwrap();
    assert_eq!(found.files, ["c/train/0000.parquet", "c/train/0001.parquet"]);
    refused(converted(&files, &name("a/b")), &["c, d"]);
    refused(converted(&files, &name("a/b:d:test")), &["no split `test`", "its splits: train"]);
}

#[test]
fn shards_that_are_missing() {
    let files = names(&["d/train-00000-of-00003.parquet", "d/train-00002-of-00003.parquet", "x.csv"]);
    assert_eq!(missing_shard(&files).as_deref(), Some("d/train-00001-of-00003"));
    assert_eq!(missing_shard(&files[2..]), None);
    assert_eq!(missing_shard(&names(&["a-00000-of-00002.csv", "a-00001-of-00002.csv"])), None);
    for odd in ["-of-00001", "a-0000-of-00001", "é-of-1", "a-00001-of-0000é", "-00000-of-00000"] {
        missing_shard(&names(&[odd]));
    }
}
