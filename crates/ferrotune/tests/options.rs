//! The run file's keys as their declarations tell of them: documents, aliases, writing and reading back.

use std::path::Path;

use ferrotune::options::{keys, schema_of};
use ferrotune::run_config::{Notation, RunConfig, reference};
use proptest::prelude::*;
use proptest::strategy::Union;
use serde_json::{Value, json};

fn read(text: &str) -> ferrotune::Result<RunConfig> {
    RunConfig::parse(text, Notation::Yaml, "run.yaml", &[])
}

fn with(key: &str, value: &str) -> ferrotune::Result<RunConfig> {
    RunConfig::from_overrides(&["model.base=m".to_string(), format!("{key}={value}")])
}

#[test]
fn every_key_and_every_word_says_what_it_means_and_stands_on_the_page() {
    let page = reference::page();
    let commented = reference::commented();
    let all = keys::<RunConfig>();
    assert!(all.len() > 60, "{} keys", all.len());
    for key in all {
        let name = key.path.split_once('.').expect("a section").1;
        assert!(key.meaning().ends_with('.'), "{}: {}", key.path, key.meaning());
        assert!(page.contains(&format!("| `{name}`")), "{} is not on the page", key.path);
        assert!(commented.contains(&format!(" {}:", key.name())), "{} is not among all keys", key.path);
        for word in key.words() {
            assert!(word.meaning.ends_with('.'), "{}: {}: {}", key.path, word.word, word.meaning);
            assert!(page.contains(&format!("- `{}`: {}", word.word, word.meaning)), "{}", word.word);
        }
        let about = reference::explain(&key.path).expect("an explanation");
        assert!(about.starts_with(&format!("{}\n", key.path)) && about.contains("default"), "{about}");
    }
}

/// The files in `docs` that are made from the declarations.
#[test]
fn the_page_and_the_schema_in_docs_are_those_of_now() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    for (name, option, now) in [
        ("run-file.md", "--reference", reference::page()),
        ("run.schema.json", "--schema", reference::schema()),
    ] {
        let written = std::fs::read_to_string(docs.join(name)).unwrap_or_default();
        assert!(written == now, "docs/{name} is old: cargo run -- config {option} > docs/{name}");
    }
}

#[test]
fn the_schema_for_editors_has_every_name_and_nothing_of_our_own() {
    let text = reference::schema();
    assert!(!text.contains("\"x-"), "an extension is left");
    let schema: Value = serde_json::from_str(&text).unwrap();
    for key in keys::<RunConfig>() {
        let mut parts: Vec<&str> = key.path.split('.').collect();
        parts.pop();
        for name in std::iter::once(key.name()).chain(key.aliases()) {
            let place: String =
                parts.iter().chain([&name]).map(|part| format!("/properties/{part}")).collect();
            let found = schema.pointer(&place).unwrap_or_else(|| panic!("{place} is missing"));
            assert!(found["description"].is_string(), "{place}: {found}");
        }
    }
    // One value in the place of a list.
    let one_or_many = &schema["properties"]["data"]["properties"]["train"]["anyOf"];
    assert_eq!(one_or_many, &json!([{"type": "string"}, {"type": "array", "items": {"type": "string"}}]));
}

#[test]
fn all_keys_as_they_are_printed_are_a_run_file_of_defaults() {
    let printed = read(&reference::commented()).unwrap();
    let mut plain = RunConfig::default();
    plain.model.base = printed.model.base.clone();
    plain.data.train = vec!["rows.jsonl".into()];
    plain.resolve();
    assert_eq!(printed, plain);
}

#[test]
fn aliases_are_the_key_itself() {
    let mut read = 0;
    for key in keys::<RunConfig>() {
        let section = key.path.rsplit_once('.').expect("a section").0;
        for alias in key.aliases() {
            let alias = format!("{section}.{alias}");
            let word = key.words().first().map(|w| w.word.clone());
            let value = ["64", "0.5", "true", "[0.5, 0.5]", "x", "{text: x}"]
                .into_iter()
                .map(str::to_string)
                .chain(word);
            let value = value.into_iter().find(|v| with(&key.path, v).is_ok()).expect("some value");
            assert_eq!(with(&alias, &value).unwrap(), with(&key.path, &value).unwrap(), "{alias}={value}");
            read += 1;
        }
    }
    assert!(read > 30, "{read} aliases");
}

#[test]
fn a_refused_value_is_found_in_its_file() {
    let text = "model: { base: m }\ntrain:\n  epochs: 2\n  learning_rate: fast\n";
    let error = read(text).unwrap_err().to_string();
    let expected = "train.learning_rate: found \"fast\", expected a number above 0 (in run.yaml, line 4)";
    assert_eq!(error, expected);
    let error = read("model: { base: m }\nmethod:\n  rank_pattern:\n    a.b: 1\n    c.d: 0\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "method.rank_pattern.c.d: found 0, expected at least 1 (in run.yaml, line 5)"
    );
    // What an override says is said without a place.
    let error = with("train.betas", "[0.9, 1]").unwrap_err().to_string();
    assert_eq!(error, "train.betas: found 1.0, expected a number from 0 up to, but not, 1");
}

#[test]
fn what_decides_the_numbers_is_declared_with_the_key() {
    let free: Vec<String> =
        keys::<RunConfig>().into_iter().filter(|k| !k.decides_numbers()).map(|k| k.path).collect();
    let settings = with("train.lr", "1").unwrap().settings();
    for key in ["model.base", "data.eval", "train.threads", "output.dir", "output.keep_checkpoints"] {
        assert!(free.contains(&key.to_string()), "{key}");
    }
    assert!(free.iter().all(|key| !settings.contains_key(key)), "{settings:?}");
    assert!(["train.lr", "train.seed", "method.rank"].iter().all(|key| settings.contains_key(*key)));
}

/// Values that a declaration allows.
fn values(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(words) = schema.get("oneOf").and_then(Value::as_array) {
        let words = words.iter().map(|word| word["const"].clone()).collect::<Vec<_>>();
        return proptest::sample::select(words).boxed();
    }
    if let Some(among) = schema.get("enum").and_then(Value::as_array) {
        return proptest::sample::select(among.clone()).boxed();
    }
    let limit = |keys: [&str; 2], other: f64| keys.iter().find_map(|k| schema[*k].as_f64()).unwrap_or(other);
    let (least, most) =
        (limit(["minimum", "exclusiveMinimum"], 0.0), limit(["maximum", "exclusiveMaximum"], 1e6));
    let of = |kind: &str| match kind {
        "integer" => (least as u64..1 << 32).prop_map(Value::from).boxed(),
        "number" => {
            (least..most).prop_filter("an open end", move |n| *n > least).prop_map(Value::from).boxed()
        }
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "string" => "[a-z~:# '\"\\\\é-]{1,12}".prop_map(Value::from).boxed(),
        "array" => {
            let count = schema["minItems"].as_u64().unwrap_or(0) as usize;
            let count = count..=schema["maxItems"].as_u64().unwrap_or(3) as usize;
            proptest::collection::vec(values(&schema["items"]), count).prop_map(Value::from).boxed()
        }
        "object" => {
            proptest::collection::btree_map("[a-z.]{1,9}", values(&schema["additionalProperties"]), 0..3)
                .prop_map(|map| map.into_iter().collect())
                .boxed()
        }
        _ => Just(Value::Null).boxed(),
    };
    match &schema["type"] {
        Value::Array(kinds) => Union::new(kinds.iter().filter_map(Value::as_str).map(of)).boxed(),
        kind => of(kind.as_str().unwrap_or("null")),
    }
}

/// Sections in which some of the keys have values.
fn trees(schema: &Value) -> BoxedStrategy<Value> {
    let Some(keys) = schema.get("properties").and_then(Value::as_object) else { return values(schema) };
    let key = |(name, schema): (&String, &Value)| {
        let name = name.clone();
        let stated = if schema.get("properties").is_some() { 0.9 } else { 0.3 };
        proptest::option::weighted(stated, trees(schema))
            .prop_map(move |value| value.map(|v| (name.clone(), v)))
    };
    let all: Vec<_> = keys.iter().map(key).collect();
    all.prop_map(|pairs| pairs.into_iter().flatten().collect()).boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_as_the_same(tree in trees(&schema_of::<RunConfig>())) {
        // Keys may contradict each other.
        let Ok(config) = RunConfig::parse(&tree.to_string(), Notation::Json, "run.json", &[]) else {
            return Err(TestCaseError::reject("not valid"));
        };
        let written = config.to_yaml();
        let again = read(&written).map_err(|e| TestCaseError::fail(format!("{e}\n{written}")))?;
        prop_assert_eq!(&again, &config, "{}", &written);
        prop_assert_eq!(again.to_yaml(), written);
        prop_assert_eq!(again.settings(), config.settings());
    }
}
