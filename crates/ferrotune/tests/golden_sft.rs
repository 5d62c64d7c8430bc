//! Every case of `testdata/golden/sft`: tokenizer, preparation with TRL's options, packing, collation without padding.

use ferrotune::data::chat_template::{ChatTemplate, Clock};
use ferrotune::data::dataset::{Chat, Dataset, Example, ReadOptions};
use ferrotune::data::pack::{PackStrategy, plan};
use ferrotune::data::packed_batch::{NO_TARGET, PackedBatch};
use ferrotune::data::tokenize::{Masks, PrepareOptions, Preparer};
use ferrotune::data::tokenizer::{Tokenizer, TokenizerSettings};
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::run_config::{DataOptions, Overlong, Truncation};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

fn fixture(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn tokenizer() -> Tokenizer {
    let folder = golden("models/llama3_rope/model");
    let settings = TokenizerSettings::from_config(&fixture("models/llama3_rope/model/tokenizer_config.json"));
    Tokenizer::new(&std::fs::read(folder.join("tokenizer.json")).unwrap(), settings, "tokenizer.json")
        .unwrap()
}

fn template(tokenizer: &Tokenizer) -> ChatTemplate {
    tokenizer.chat_template(Clock { unix_seconds: 0 }).unwrap().unwrap()
}

#[test]
fn tokenizer_ids_offsets_and_text() {
    let tokenizer = tokenizer();
    let fixture = fixture("sft/tokenizer.json");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(json!(encoded.ids), case["input_ids"], "{text:?}");
        // The fixture counts code points.
        let points = |at: usize| text.char_indices().take_while(|(i, _)| *i < at).count();
        let offsets: Vec<[usize; 2]> = encoded.offsets.iter().map(|&(a, b)| [points(a), points(b)]).collect();
        assert_eq!(json!(offsets), case["offsets"], "{text:?}");
        assert_eq!(json!(tokenizer.decode(&encoded.ids, false).unwrap()), case["decoded"]);
        assert_eq!(json!(tokenizer.decode(&encoded.ids, true).unwrap()), case["decoded_skip_special"]);

        let mut stream = tokenizer.stream(&[], false);
        let pieces: Vec<String> = encoded.ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        assert_eq!(pieces.concat() + &stream.finish().unwrap(), text);
    }
}

/// A row as the data set reader gives it; rows that it refuses as empty are made here.
fn example(shape: &str, row: &Value) -> Example {
    let text = |name: &str| row[name].as_str().unwrap().to_string();
    match shape {
        "text" => Example::Text(text("text")),
        "prompt_completion" => Example::Completion { prompt: text("prompt"), completion: text("completion") },
        _ => {
            let mut dataset = Dataset::default();
            let template = template(&tokenizer());
            let options = ReadOptions { template: Some(&template), ..ReadOptions::default() };
            dataset.add(Path::new("rows"), row.to_string().as_bytes(), options).unwrap();
            match dataset.bad.is_empty() {
                true => dataset.rows.remove(0).example,
                // TRL trains an empty answer.
                false => Example::Chat(Chat {
                    messages: row["messages"].as_array().unwrap().clone(),
                    ..Chat::default()
                }),
            }
        }
    }
}

fn strategy(name: &str) -> PackStrategy {
    match name {
        "bfd" => PackStrategy::BestFit,
        "bfd_split" => PackStrategy::BestFitSplit,
        "wrapped" => PackStrategy::Wrapped,
        other => panic!("{other}"),
    }
}

/// Rows packed as TRL writes them: `input_ids`, `labels`, and for best fit `seq_lengths`.
fn packed(rows: &[TrainRow], capacity: usize, strategy_name: &str) -> Vec<Value> {
    let lengths: Vec<usize> = rows.iter().map(TrainRow::len).collect();
    plan(&lengths, capacity, strategy(strategy_name))
        .iter()
        .map(|pieces| {
            let ids: Vec<u32> =
                pieces.iter().flat_map(|p| rows[p.row].input_ids[p.range.clone()].to_vec()).collect();
            let labels: Vec<i32> =
                pieces.iter().flat_map(|p| rows[p.row].labels[p.range.clone()].to_vec()).collect();
            let lengths: Vec<usize> = pieces.iter().map(|p| p.range.len()).collect();
            match strategy_name {
                "wrapped" => json!({"input_ids": ids, "labels": labels}),
                _ => json!({"input_ids": ids, "labels": labels, "seq_lengths": lengths}),
            }
        })
        .collect()
}

#[test]
fn preparation_is_trls_under_its_options() {
    let tokenizer = tokenizer();
    let template = template(&tokenizer);
    let fixture = fixture("sft/tokenize.json");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 54);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let asked = &case["options"];
        let packing = asked["packing"].as_bool().unwrap();
        let length = asked["max_length"].as_u64().map(|n| n as usize);
        let options = PrepareOptions {
            masks: Masks {
                completion: asked["completion_only_loss"].as_bool().unwrap(),
                assistant: asked["assistant_only_loss"].as_bool().unwrap(),
            },
            max_length: None,
            truncation: Truncation::KeepStart,
            overlong: Overlong::Truncate,
            vocab_size: Some(320),
            ..PrepareOptions::from(&DataOptions::default())
        };
        let preparer = Preparer::new(&tokenizer, Some(&template), options);
        let mut rows: Vec<TrainRow> = case["rows"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|row| preparer.rows(&example(case["shape"].as_str().unwrap(), row)).unwrap().rows)
            .collect();
        let side =
            if asked["truncation_mode"] == "keep_end" { Truncation::KeepEnd } else { Truncation::KeepStart };
        if case.get("error").is_some() {
            // TRL's error is our refusal of a data set without supervised tokens; here the row that has none.
            assert!(rows.iter().any(|row| row.label_tokens() == 0), "{id}");
            continue;
        }
        let found = match (packing, length) {
            (true, Some(length)) => packed(&rows, length, asked["packing_strategy"].as_str().unwrap()),
            (_, length) => {
                rows.iter_mut().for_each(|row| row.truncate(length.unwrap_or(usize::MAX), side));
                rows.retain(|row| row.labels.iter().any(|&label| label != IGNORE));
                rows.iter().map(|row| json!({"input_ids": row.input_ids, "labels": row.labels})).collect()
            }
        };
        let expected: Vec<Value> = case["examples"].as_array().unwrap().clone();
        assert_eq!(found.len(), expected.len(), "{id}");
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{id} {i}");
        }
    }
}

fn rows(ids: &Value, labels: &Value) -> Vec<TrainRow> {
    let ids: Vec<Vec<u32>> = serde_json::from_value(ids.clone()).unwrap();
    let labels: Vec<Vec<i32>> = serde_json::from_value(labels.clone()).unwrap();
    ids.into_iter()
        .zip(labels)
        .map(|(input_ids, labels)| TrainRow { input_ids, labels, goes_on: false })
        .collect()
}

#[test]
fn packing_is_trls() {
    let fixture = fixture("sft/packing.json");
    let cases = fixture["cases"].as_array().unwrap();
    assert_eq!(cases.len(), CASES);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let rows = rows(&case["input_ids"], &case["labels"]);
        let capacity = case["seq_length"].as_u64().unwrap() as usize;
        let name = case["strategy"].as_str().unwrap();
        let found = packed(&rows, capacity, name);
        let expected = case["packed"].as_array().unwrap();
        assert_eq!(found.len(), expected.len(), "{id}");
        let lengths: Vec<usize> = rows.iter().map(TrainRow::len).collect();
        let packs = plan(&lengths, capacity, strategy(name));
        let all: Vec<&TrainRow> = rows.iter().collect();
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            for key in ["input_ids", "labels", "seq_lengths"] {
                assert_eq!(found.get(key), expected.get(key), "{id} {i} {key}");
            }
            if let Some(positions) = expected.get("position_ids") {
                assert_eq!(
                    json!(PackedBatch::from_pieces(&all, &packs[i]).positions),
                    *positions,
                    "{id} {i}"
                );
            }
        }
        if let Some(members) = case.get("row_members") {
            let found: Vec<Vec<usize>> =
                packs.iter().map(|p| p.iter().map(|piece| piece.row).collect()).collect();
            assert_eq!(json!(found), *members, "{id}");
        }
    }
}

const CASES: usize = 48;

/// The collator's form without padding, shifted: its labels moved one to the left, nothing across a border.
#[test]
fn batches_are_the_padding_free_form() {
    let fixture = fixture("sft/collate.json");
    let mut seen = 0;
    for case in fixture["cases"].as_array().unwrap() {
        let options = &case["options"];
        if options["padding_free"] != true || !options["pad_to_multiple_of"].is_null() {
            continue;
        }
        seen += 1;
        let mut batch = PackedBatch::default();
        for example in case["examples"].as_array().unwrap() {
            let row = rows(&json!([example["input_ids"]]), &json!([example["labels"]])).remove(0);
            let lengths: Vec<usize> =
                serde_json::from_value(example["seq_lengths"].clone()).unwrap_or_else(|_| vec![row.len()]);
            let mut at = 0;
            for length in lengths {
                batch.push(&row.input_ids[at..at + length], &row.labels[at..at + length]);
                at += length;
            }
        }
        let expected = &case["batch"];
        assert_eq!(json!([batch.tokens]), expected["input_ids"]);
        assert_eq!(json!([batch.positions]), expected["position_ids"]);
        let labels: Vec<Vec<i32>> = serde_json::from_value(expected["labels"].clone()).unwrap();
        let mut shifted: Vec<i32> =
            labels[0][1..].iter().map(|&l| if l == IGNORE { NO_TARGET } else { l }).collect();
        shifted.push(NO_TARGET);
        assert_eq!(batch.targets, shifted);
        let mut ends: Vec<usize> = vec![0];
        ends.extend(batch.segments.iter().map(|s| s.queries().end));
        assert_eq!(json!(ends), expected["cu_seq_lens_q"]);
    }
    assert_eq!(seen, 2);
}
