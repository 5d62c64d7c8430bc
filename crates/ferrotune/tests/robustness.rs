//! Input that nobody wrote on purpose: nothing panics, and what is accepted keeps its promises.

use ferrotune::data::chat_template::{ChatTemplate, RenderOptions};
use ferrotune::data::dataset::{Dataset, ReadOptions};
use ferrotune::data::pack::{PackStrategy, Packing, micro_batches, plan};
use ferrotune::data::packed_batch::{NO_TARGET, PackedBatch};
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::run_config::{Notation, RunConfig};
use proptest::prelude::*;
use serde_json::{Map, json};
use std::path::Path;

/// Bits of templates in any order: most are not Jinja, some are.
fn template() -> impl Strategy<Value = String> {
    let bit = prop_oneof![
        Just("{{"),
        Just("}}"),
        Just("{%"),
        Just("%}"),
        Just("{%-"),
        Just("-%}"),
        Just("{#"),
        Just("#}"),
        Just("+%}"),
        Just(" for x in messages "),
        Just(" endfor "),
        Just(" if "),
        Just(" else "),
        Just(" endif "),
        Just(" set x.y = "),
        Just(" set x = "),
        Just(" raw "),
        Just(" endraw "),
        Just(" generation "),
        Just(" endgeneration "),
        Just(" continue "),
        Just(" ~ "),
        Just(" % "),
        Just(" + "),
        Just("-"),
        Just(" < "),
        Just(" not "),
        Just(" in "),
        Just(" is "),
        Just("|"),
        Just("."),
        Just(","),
        Just("("),
        Just(")"),
        Just("["),
        Just("]"),
        Just("{"),
        Just("}"),
        Just("\'"),
        Just("\""),
        Just("messages"),
        Just("x"),
        Just("1"),
        Just("2.5e"),
        Just("string"),
        Just("length"),
        Just("é"),
        Just("\n"),
        Just("\\"),
    ];
    proptest::collection::vec(bit, 0..24).prop_map(|bits| bits.concat())
}

/// Expressions that are valid, so that what the operators become is valid too.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1".to_string()),
        Just("2.5".to_string()),
        Just("'a'".to_string()),
        Just("missing".to_string()),
        Just("messages".to_string()),
        Just("none".to_string()),
        Just("-3".to_string()),
        Just("x.y".to_string()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop_oneof![
            Just("~"),
            Just("+"),
            Just("-"),
            Just("*"),
            Just("%"),
            Just("//"),
            Just("<"),
            Just(">="),
            Just("=="),
            Just("and"),
            Just("or"),
            Just("in"),
            Just("not in"),
            Just("**"),
        ];
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("(not {a})")),
            inner.clone().prop_map(|a| format!("({a}) | string | length")),
            inner.clone().prop_map(|a| format!("(({a}) is not string)")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}][0]")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}['k']")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_template_ends(source in template()) {
        if let Ok(template) = ChatTemplate::parse(&source, Map::new()) {
            let _ = template.render(&[json!({"role": "user", "content": "x"})], None, &RenderOptions::default());
        }
    }

    #[test]
    fn valid_expressions_stay_valid(source in expression()) {
        for template in [format!("{{{{ {source} }}}}"), format!("{{%- if {source} -%}}{{%- endif -%}}")] {
            prop_assert!(ChatTemplate::parse(&template, Map::new()).is_ok(), "{template}");
        }
    }

    #[test]
    fn any_file_of_rows_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80), tail in "[\\[\\]{}\",:a-z0-9 \n]{0,40}") {
        for bytes in [bytes, tail.into_bytes()] {
            let _ = Dataset::default().add(Path::new("rows"), &bytes, ReadOptions::default());
        }
    }

    #[test]
    fn any_run_file_is_read_or_refused(text in "[a-z:{}\\[\\]&*<!|>\" \n0-9.-]{0,60}", set in "[a-z.=\\[\\]0-9{}]{0,20}") {
        for notation in [Notation::Yaml, Notation::Toml, Notation::Json] {
            let _ = RunConfig::parse(&text, notation, "run", std::slice::from_ref(&set));
        }
    }

    #[test]
    fn packs_hold_every_token_once(lengths in proptest::collection::vec(0_usize..40, 0..40), capacity in 1_usize..50) {
        for strategy in [PackStrategy::BestFit, PackStrategy::BestFitSplit, PackStrategy::Wrapped] {
            let mut seen: Vec<Vec<u8>> = lengths.iter().map(|&n| vec![0; n]).collect();
            for pack in plan(&lengths, capacity, strategy) {
                prop_assert!(!pack.is_empty());
                prop_assert!(pack.iter().map(|p| p.range.len()).sum::<usize>() <= capacity);
                pack.iter().for_each(|p| seen[p.row][p.range.clone()].iter_mut().for_each(|n| *n += 1));
            }
            for row in seen {
                let kept = if strategy == PackStrategy::BestFit { row.len().min(capacity) } else { row.len() };
                prop_assert!(row.iter().enumerate().all(|(i, &n)| n == u8::from(i < kept)));
            }
        }
    }

    #[test]
    fn micro_batches_keep_rows_whole(lengths in proptest::collection::vec(0_usize..40, 0..30), bound in 1_usize..50, several: bool) {
        let rows: Vec<TrainRow> = lengths.iter().enumerate().map(|(row, &n)| {
            let input_ids: Vec<u32> = (0..n as u32).map(|t| 1000 * row as u32 + t).collect();
            let labels = input_ids.iter().map(|&id| if id % 3 == 0 { IGNORE } else { id as i32 }).collect();
            TrainRow { input_ids, labels, goes_on: false }
        }).collect();
        let packing = if several { Packing::Together } else { Packing::Alone };
        let batches = micro_batches(&rows.iter().collect::<Vec<_>>(), bound, packing);
        prop_assert_eq!(batches.iter().map(PackedBatch::len).sum::<usize>(), lengths.iter().sum::<usize>());
        prop_assert_eq!(
            batches.iter().map(PackedBatch::label_tokens).sum::<usize>(),
            rows.iter().map(TrainRow::label_tokens).sum::<usize>()
        );
        for batch in batches {
            prop_assert!(batch.len() <= bound || batch.segments.len() == 1);
            prop_assert!(several || batch.segments.len() == 1);
            for segment in &batch.segments {
                let segment = segment.queries();
                let row = batch.tokens[segment.start] as usize / 1000;
                prop_assert_eq!(&batch.tokens[segment.clone()], rows[row].input_ids.as_slice());
                prop_assert_eq!(batch.targets[segment.end - 1], NO_TARGET);
            }
        }
    }
}
