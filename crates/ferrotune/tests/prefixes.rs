//! Shared beginnings: batches unfold to their rows, and a step with them is the step without.

mod training;

use std::collections::BTreeMap;

use ferrotune::data::pack::{Packing, micro_batches};
use ferrotune::data::packed_batch::{NO_TARGET, PackedBatch};
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, LoraConfig, Targets};
use ferrotune::loss::{NextToken, evaluate};
use ferrotune::model::{Activations, Params, Pass};
use ferrotune_kernels::ops::attention::Segment;
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Precision};
use proptest::prelude::*;
use training::{assert_same, checkpoint, cpu, fill_zeros, gradients};

/// Tokens and targets of a row.
type Positions = Vec<(u32, i32)>;

fn positions(row: &TrainRow) -> Positions {
    let target =
        |at: usize| row.labels.get(at + 1).map_or(NO_TARGET, |l| if *l == IGNORE { NO_TARGET } else { *l });
    row.input_ids.iter().enumerate().map(|(at, id)| (*id, target(at))).collect()
}

/// The rows of a batch: a segment ends as many as go through it and not on to one after it.
fn unfold(batch: &PackedBatch) -> Vec<Positions> {
    let weight = |s: &Segment| batch.weights[s.q_start] as usize;
    let mut ends: Vec<usize> = batch.segments.iter().map(weight).collect();
    let mut paths: Vec<Positions> = Vec::new();
    for (i, s) in batch.segments.iter().enumerate() {
        let tokens = s.queries();
        assert!(tokens.clone().all(|t| batch.weights[t] == batch.weights[s.q_start]), "one weight");
        let mut path = Positions::new();
        if let Some(parent) = s.parent {
            assert!(parent < i);
            ends[parent] =
                ends[parent].checked_sub(weight(s)).expect("children hold at most their parent's rows");
            path.clone_from(&paths[parent]);
        }
        for t in tokens {
            assert_eq!(batch.positions[t] as usize, path.len());
            path.push((batch.tokens[t], batch.targets[t]));
        }
        paths.push(path);
    }
    paths.into_iter().zip(ends).flat_map(|(path, n)| std::iter::repeat_n(path, n)).collect()
}

/// Rows made of a few pieces, so that many begin alike, some wholly.
fn pieces() -> impl Strategy<Value = Vec<TrainRow>> {
    let row = proptest::collection::vec(0_usize..5, 0..5);
    proptest::collection::vec(row, 0..24).prop_map(|rows| {
        let lengths = [20, 16, 5, 30, 1];
        let row = |pieces: Vec<usize>| {
            let mut row = TrainRow::default();
            for piece in pieces {
                for t in 0..lengths[piece] {
                    let id = (40 * piece + t) as u32;
                    row.input_ids.push(id);
                    row.labels.push(if (id + piece as u32).is_multiple_of(3) { IGNORE } else { id as i32 });
                }
            }
            row
        };
        rows.into_iter().map(row).collect()
    })
}

proptest! {
    #[test]
    fn shared_batches_unfold_to_their_rows(rows in pieces(), bound in 1_usize..200, longest in 0_usize..90) {
        let rows: Vec<&TrainRow> = rows.iter().collect();
        let plain = micro_batches(&rows, bound, Packing::Together);
        let batches = micro_batches(&rows, bound, Packing::Shared(longest));
        prop_assert_eq!(&batches, &micro_batches(&rows, bound, Packing::Shared(longest)));

        let mut expected: Vec<Positions> = rows.iter().filter(|r| !r.is_empty()).map(|r| positions(r)).collect();
        let mut found: Vec<Positions> = batches.iter().flat_map(unfold).collect();
        expected.sort_unstable();
        found.sort_unstable();
        prop_assert_eq!(found, expected);

        let sum = |batches: &[PackedBatch], of: fn(&PackedBatch) -> usize| batches.iter().map(of).sum::<usize>();
        let tokens: usize = rows.iter().map(|r| r.len()).sum();
        prop_assert_eq!(sum(&batches, |b| b.row_tokens), tokens);
        prop_assert_eq!(sum(&batches, PackedBatch::label_tokens), rows.iter().map(|r| r.label_tokens()).sum::<usize>());
        prop_assert_eq!(sum(&batches, |b| b.labels), sum(&plain, |b| b.labels));
        prop_assert!(sum(&batches, PackedBatch::len) <= tokens);
        prop_assert_eq!(sum(&plain, PackedBatch::len), tokens);
        for batch in &batches {
            prop_assert!(batch.len() <= bound || batch.segments.len() == 1);
            let mut root = 0;
            for (i, s) in batch.segments.iter().enumerate() {
                root = if s.parent.is_none() { i } else { root };
                prop_assert!(s.parent.is_none_or(|parent| parent >= root), "a tree's segments follow each other");
                let shared = batch.weights[s.q_start] > 1;
                prop_assert!(!shared || s.q_len >= 16);
                prop_assert!(!shared || batch.positions[s.queries().end - 1] < longest as u32);
            }
        }
    }

    #[test]
    fn rows_with_nothing_in_common_are_packed_as_ever(lengths in proptest::collection::vec(0_usize..40, 0..30), bound in 1_usize..90) {
        // Fifteen common tokens are too few.
        let row = |(row, n): (usize, &usize)| {
            let input_ids: Vec<u32> = (0..*n as u32).map(|t| if t < 15 { t } else { 100 * (40 - row as u32) + t }).collect();
            TrainRow { labels: vec![IGNORE; *n], input_ids, goes_on: false }
        };
        let rows: Vec<TrainRow> = lengths.iter().enumerate().map(row).collect();
        let rows: Vec<&TrainRow> = rows.iter().collect();
        let shared = micro_batches(&rows, bound, Packing::Shared(usize::MAX));
        prop_assert_eq!(shared, micro_batches(&rows, bound, Packing::Together));
    }
}

/// A row of named stretches: the same name gives the same tokens, a capital is supervised.
fn row(stretches: &[(&str, usize)]) -> TrainRow {
    let mut row = TrainRow::default();
    for (name, length) in stretches {
        let random = Stream::new(7, name, 0);
        let supervised = name.starts_with(char::is_uppercase);
        for i in 0..*length {
            let id = 5 + random.below(i as u64, 300) as u32;
            row.input_ids.push(id);
            row.labels.push(if supervised { id as i32 } else { IGNORE });
        }
    }
    row
}

/// A system prompt for most, documents for some of them, an answer that two share, a copy, a row that is the beginning of
/// another, short rows, and one that is alone.
fn rows() -> Vec<TrainRow> {
    vec![
        row(&[("system", 40), ("document", 30), ("A", 9)]),
        row(&[("alone", 20), ("B", 25)]),
        row(&[("system", 40), ("document", 30), ("question", 5), ("C", 6)]),
        row(&[("system", 40), ("other", 20), ("Answer", 20), ("D", 3)]),
        row(&[("system", 40), ("other", 20), ("Answer", 20), ("E", 7)]),
        row(&[("system", 40), ("document", 30), ("A", 9)]),
        row(&[("short", 18), ("F", 4)]),
        row(&[("system", 40), ("G", 12)]),
        row(&[("system", 40), ("document", 30), ("H", 20)]),
        row(&[("system", 40), ("document", 30), ("H", 20), ("end", 1), ("I", 5)]),
        row(&[("short", 18), ("K", 6)]),
    ]
}

fn batches(rows: &[TrainRow], bound: usize, packing: Packing) -> Vec<PackedBatch> {
    micro_batches(&rows.iter().collect::<Vec<_>>(), bound, packing)
}

fn stored(batches: &[PackedBatch]) -> usize {
    batches.iter().map(PackedBatch::len).sum()
}

fn step(
    model: &ferrotune::model::Decoder,
    pass: &Pass<'_>,
    batches: &[PackedBatch],
    policy: Activations,
) -> (f64, Vec<Vec<f32>>) {
    let (loss, grads) = gradients(model, pass, batches, policy);
    (loss, grads.all().map(|t| t.to_vec()).collect())
}

fn pass<'a>(dev: &'a Device, params: &'a Params, adapter: Option<&'a Adapter>) -> Pass<'a> {
    Pass { dev, precision: Precision::F32, params, adapted: adapter.map(|a| &a.adapted), dropout: None }
}

/// Sliding windows and caps, experts, every rope scaling: all families of the test data.
#[test]
fn sharing_does_not_change_a_step_of_any_family() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
    let mut names: Vec<String> = std::fs::read_dir(models)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 38, "{} families", names.len());
    let (dev, rows) = (cpu(2), rows());
    let mut limited = 0;
    for name in names {
        let (model, _) = load(&dev, &checkpoint(&name), BaseStorage::AsStored, 128).unwrap();
        let config = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
        let mut adapter = Adapter::init(&dev, &model, config, 3).unwrap();
        fill_zeros(&mut adapter);
        let longest = model.arch.fixed_rotation();
        let shared = batches(&rows, 1000, Packing::Shared(longest));
        let plain = batches(&rows, 1000, Packing::Together);
        // Where frequencies change, the short rows alone may share: 17 of their 18 tokens, as the last predicts another.
        let whole = rows.iter().all(|row| row.len() <= longest);
        let expected_size = if whole { 267 } else { 738 - 17 };
        limited += usize::from(!whole);
        assert_eq!((stored(&plain), stored(&shared)), (738, expected_size), "{name} {longest}");
        let pass = pass(&dev, &adapter.params, Some(&adapter));
        let expected = step(&model, &pass, &plain, Activations::Keep);
        assert_same(&name, &step(&model, &pass, &shared, Activations::Keep), &expected);
        assert_same(&name, &step(&model, &pass, &shared, Activations::Recompute), &expected);
        let mean = |batches: &[PackedBatch]| {
            evaluate(&NextToken, &model, &pass, batches.iter().cloned().map(Ok)).unwrap()
        };
        let (found, wanted) = (mean(&shared), mean(&plain));
        assert_eq!(found.count, wanted.count);
        assert!((found.mean() - wanted.mean()).abs() < 1e-6, "{name}: held-out loss");
    }
    assert!(limited > 0, "no family with frequencies that change");
}

#[test]
fn sharing_does_not_change_a_full_step() {
    let (dev, rows) = (cpu(2), rows());
    for name in ["llama_tied", "gemma2", "mixtral", "starcoder2"] {
        let (model, params) = load(&dev, &checkpoint(name), BaseStorage::Trained, 128).unwrap();
        let pass = pass(&dev, &params, None);
        let expected = step(&model, &pass, &batches(&rows, 1000, Packing::Together), Activations::Keep);
        // A bound that cuts the tree of the system prompt into several.
        for bound in [1000, 150] {
            let shared = batches(&rows, bound, Packing::Shared(usize::MAX));
            assert!(stored(&shared) < 500 && (bound == 150) == (shared.len() > 1), "{bound}");
            assert_same(name, &step(&model, &pass, &shared, Activations::Keep), &expected);
        }
    }
}

#[test]
fn sharing_does_not_change_a_step_of_what_an_adapter_replaces() {
    let dev = cpu(2);
    let (model, _) = load(&dev, &checkpoint("llama3_rope"), BaseStorage::AsStored, 128).unwrap();
    let rows = rows();
    let names = |all: &[&str]| Targets::Names(all.iter().map(|n| n.to_string()).collect());
    let base = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
    let tokens: Vec<u32> = rows[0].input_ids[..8].to_vec();
    for config in [
        LoraConfig { dora: true, ..base.clone() },
        LoraConfig { targets: names(&["q_proj", "embed_tokens", "lm_head"]), ..base.clone() },
        LoraConfig {
            targets: names(&["v_proj"]),
            modules_to_save: vec!["embed_tokens".into()],
            ..base.clone()
        },
        LoraConfig { targets: names(&["v_proj"]), trainable_tokens: tokens, ..base.clone() },
    ] {
        let what = format!("{config:?}");
        let mut adapter = Adapter::init(&dev, &model, config, 3).unwrap();
        fill_zeros(&mut adapter);
        let pass = pass(&dev, &adapter.params, Some(&adapter));
        let expected = step(&model, &pass, &batches(&rows, 1000, Packing::Together), Activations::Keep);
        let shared = batches(&rows, 1000, Packing::Shared(usize::MAX));
        assert_same(&what, &step(&model, &pass, &shared, Activations::Keep), &expected);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit_of_a_shared_step() {
    let shared = batches(&rows(), 1000, Packing::Shared(usize::MAX));
    let run = |threads| {
        let dev = cpu(threads);
        let (model, _) = load(&dev, &checkpoint("gemma2"), BaseStorage::AsStored, 128).unwrap();
        let config = LoraConfig { rank: 4, alpha: 8.0, ..LoraConfig::default() };
        let mut adapter = Adapter::init(&dev, &model, config, 3).unwrap();
        fill_zeros(&mut adapter);
        let of = |precision| {
            let pass = Pass { precision, ..pass(&dev, &adapter.params, Some(&adapter)) };
            step(&model, &pass, &shared, Activations::Keep)
        };
        [of(Precision::F32), of(Precision::Bf16)]
    };
    let expected = run(1);
    assert!(run(2) == expected);
    assert!(run(3) == expected);
}

#[test]
fn a_tree_that_is_too_large_becomes_several_with_the_beginning_each() {
    let rows: Vec<TrainRow> = (0..6).map(|i| row(&[("system", 50), (&format!("Own{i}"), 20)])).collect();
    let shape = |bound| -> BTreeMap<usize, usize> {
        let mut shape = BTreeMap::new();
        for batch in batches(&rows, bound, Packing::Shared(usize::MAX)) {
            *shape.entry(batch.len()).or_default() += 1;
        }
        shape
    };
    // 49 tokens are shared: the fiftieth predicts another token in each row.
    assert_eq!(shape(49 + 6 * 21), [(49 + 6 * 21, 1)].into());
    assert_eq!(shape(48 + 6 * 21), [(49 + 5 * 21, 1), (70, 1)].into());
    assert_eq!(shape(49 + 3 * 21), [(49 + 3 * 21, 2)].into());
    assert_eq!(shape(75), [(70, 6)].into());
    assert_eq!(shape(69), [(70, 6)].into(), "rows over the bound are alone");
}

#[test]
fn a_shared_beginning_beyond_fixed_frequencies_is_refused() {
    let dev = cpu(1);
    let (model, none) = load(&dev, &checkpoint("llama_dynamic"), BaseStorage::AsStored, 128).unwrap();
    let shared = batches(&rows(), 1000, Packing::Shared(usize::MAX)).remove(0);
    let error = model.forward(&pass(&dev, &none, None), (&shared).into()).unwrap_err();
    assert!(error.to_string().contains("shares its first with others"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("beyond 32 tokens")), "{:?}", error.hint());
}
