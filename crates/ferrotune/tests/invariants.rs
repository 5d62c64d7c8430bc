//! What must hold for training whatever the model, on a tiny one: how rows are grouped, how activations are kept,
//! how many threads there are and which device computes does not change what is learned.

mod training;

use std::path::Path;

use ferrotune::data::pack::{Packing, micro_batches};
use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::data::train_row::{IGNORE, TrainRow};
use ferrotune::formats::Checkpoint;
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, LoraConfig, Targets};
use ferrotune::loss::{NextToken, evaluate};
use ferrotune::model::pass::DropoutKey;
use ferrotune::model::{Activations, Decoder, Gradients, Params, Pass, Policies};
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::{Optimizer, clip};
use ferrotune::run_config::QuantOptions;
use ferrotune::train::step;
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::rng::Stream;
use ferrotune_kernels::{Device, Precision};
use training::{assert_same, checkpoint, cpu, error, fill_zeros, gradients};

/// Rows of very different lengths and numbers of labels.
fn rows() -> Vec<TrainRow> {
    let random = Stream::new(1, "rows", 0);
    let shapes = [(40, 1), (9, 8), (33, 12), (2, 1), (60, 55), (21, 3), (17, 16), (5, 2)];
    let row = |(r, (len, labels)): (usize, &(usize, usize))| {
        let id = |i: usize| 5 + (random.uniform((100 * r + i) as u64) * 300.0) as u32;
        let input_ids: Vec<u32> = (0..*len).map(id).collect();
        let label = |i: usize| if i + labels >= *len { input_ids[i] as i32 } else { IGNORE };
        TrainRow { labels: (0..*len).map(label).collect(), input_ids, goes_on: false }
    };
    shapes.iter().enumerate().map(row).collect()
}

fn batches(rows: &[TrainRow], tokens: usize, packing: bool) -> Vec<PackedBatch> {
    let packing = if packing { Packing::Together } else { Packing::Alone };
    micro_batches(&rows.iter().collect::<Vec<_>>(), tokens, packing)
}

/// The tiny model with an adapter whose B is not zero, so that every gradient is there.
struct Case {
    dev: Device,
    precision: Precision,
    model: Decoder,
    adapter: Adapter,
    seed: u64,
}

impl Case {
    fn new(dev: Device, precision: Precision, targets: Targets, dropout: f64) -> Self {
        let config = LoraConfig { rank: 4, alpha: 8.0, dropout, targets, ..LoraConfig::default() };
        Self::of(&checkpoint("llama3_rope"), BaseStorage::AsStored, dev, precision, config)
    }

    fn of(
        checkpoint: &Checkpoint,
        storage: BaseStorage,
        dev: Device,
        precision: Precision,
        config: LoraConfig,
    ) -> Self {
        let (model, _) = load(&dev, checkpoint, storage, 128).unwrap();
        let mut adapter = Adapter::init(&dev, &model, config, 3).unwrap();
        fill_zeros(&mut adapter);
        Case { dev, precision, model, adapter, seed: 0 }
    }

    fn f32(dev: Device) -> Self {
        Self::new(dev, Precision::F32, Targets::AllLinear, 0.0)
    }

    fn pass(&self) -> Pass<'_> {
        Pass {
            dev: &self.dev,
            precision: self.precision,
            params: &self.adapter.params,
            adapted: Some(&self.adapter.adapted),
            dropout: Some(DropoutKey { seed: self.seed, step: 1 }),
        }
    }

    /// Mean loss and gradients of a step.
    fn step(&self, batches: &[PackedBatch], policies: impl Into<Policies>) -> (f64, Gradients) {
        gradients(&self.model, &self.pass(), batches, policies)
    }

    fn grads(&self, batches: &[PackedBatch], policies: impl Into<Policies>) -> (f64, Vec<Vec<f32>>) {
        let (loss, grads) = self.step(batches, policies);
        (loss, grads.all().map(|t| t.to_vec()).collect())
    }
}

/// Moves every tensor along its own gradient: the loss must change as the gradient says, through all layers.
#[test]
fn gradients_are_those_of_the_loss() {
    let batches = batches(&rows(), 1000, true);
    let mut case = Case::f32(cpu(2));
    let (_, grads) = case.step(&batches, Activations::Keep);
    let step = 2e-3;
    for name in case.adapter.params.names().to_vec() {
        let id = case.adapter.params.find(&name).unwrap();
        let gradient = grads.get(id).to_vec();
        let norm = gradient.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt();
        let start = case.adapter.params.get(id).to_vec();
        let mut loss_at = |by: f64| {
            let values = case.adapter.params.get_mut(id).host_f32_mut();
            for ((v, s), g) in values.iter_mut().zip(&start).zip(&gradient) {
                *v = s + (by * *g as f64 / norm) as f32;
            }
            evaluate(&NextToken, &case.model, &case.pass(), batches.iter().cloned().map(Ok)).unwrap().mean()
        };
        let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        loss_at(0.0);
        assert!((slope - norm).abs() < 0.02 * norm + 1e-3, "{name}: slope {slope}, gradient {norm}");
    }
}

#[test]
fn grouping_of_rows_does_not_change_a_step() {
    let case = Case::f32(cpu(2));
    let rows = rows();
    let one = batches(&rows, 1000, true);
    assert_eq!((one.len(), one[0].segments.len()), (1, 8));
    let expected = case.grads(&one, Activations::Keep);
    for (what, other, count) in [
        ("a micro-batch for each row", batches(&rows, 1, true), 8),
        ("without packing", batches(&rows, 1000, false), 8),
        ("several micro-batches", batches(&rows, 80, true), 3),
    ] {
        assert_eq!(other.len(), count, "{what}");
        assert_same(what, &case.grads(&other, Activations::Keep), &expected);
    }
    let reversed: Vec<TrainRow> = rows.iter().rev().cloned().collect();
    assert_same("another order", &case.grads(&batches(&reversed, 1000, true), Activations::Keep), &expected);
}

#[test]
fn grouping_of_rows_does_not_change_a_full_step() {
    let dev = cpu(2);
    let checkpoint = checkpoint("llama3_rope");
    let (model, params) = load(&dev, &checkpoint, BaseStorage::Trained, 128).unwrap();
    let pass = Pass { dev: &dev, precision: Precision::F32, params: &params, adapted: None, dropout: None };
    let run = |batches: &[PackedBatch], policy| {
        let (loss, grads) = gradients(&model, &pass, batches, policy);
        (loss, grads.all().map(|t| t.to_vec()).collect::<Vec<_>>())
    };
    let rows = rows();
    let expected = run(&batches(&rows, 1000, true), Activations::Keep);
    assert_same("full", &run(&batches(&rows, 1, true), Activations::Keep), &expected);
    for policy in [Activations::Lean, Activations::Recompute] {
        assert!(run(&batches(&rows, 1000, true), policy) == expected, "{policy:?}");
    }
}

#[test]
fn a_step_weighs_tokens_and_not_rows() {
    let case = Case::f32(cpu(2));
    let rows = rows();
    let of = |rows: &[TrainRow]| {
        let batches = batches(rows, 1000, true);
        let labels: usize = batches.iter().map(PackedBatch::label_tokens).sum();
        (labels as f64, case.grads(&batches, Activations::Keep))
    };
    let (n, whole) = of(&rows);
    let mut sum = (0.0, whole.1.iter().map(|g| vec![0.0; g.len()]).collect::<Vec<_>>());
    for row in &rows {
        let (labels, (loss, grads)) = of(std::slice::from_ref(row));
        sum.0 += loss * labels / n;
        for (sum, g) in sum.1.iter_mut().zip(&grads) {
            sum.iter_mut().zip(g).for_each(|(s, g)| *s += g * (labels / n) as f32);
        }
    }
    assert_same("weighted by label tokens", &sum, &whole);
}

#[test]
fn kept_and_recomputed_activations_give_the_same_bits() {
    for dropout in [0.0, 0.3] {
        let case = Case::new(cpu(2), Precision::F32, Targets::AllLinear, dropout);
        let batches = batches(&rows(), 120, true);
        let expected = case.grads(&batches, Activations::Keep);
        for below in [Activations::Lean, Activations::Recompute] {
            for kept in [0, 1] {
                let policies = Policies { below, kept };
                assert!(case.grads(&batches, policies) == expected, "{policies:?} with dropout {dropout}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads| {
                let dev = Device::Cpu(Cpu::new(threads, isa).unwrap());
                let case = Case::new(dev, precision, Targets::AllLinear, 0.1);
                case.grads(&batches(&rows(), 1000, true), Activations::Keep)
            };
            let expected = run(1);
            for threads in [2, 3] {
                assert!(run(threads) == expected, "{threads} threads, {precision:?}, {}", isa.name());
            }
        }
    }
}

#[test]
fn bf16_rounds_but_does_not_bend() {
    let batches = batches(&rows(), 1000, true);
    let expected = Case::f32(cpu(2)).grads(&batches, Activations::Keep);
    let case = Case::new(cpu(2), Precision::Bf16, Targets::AllLinear, 0.0);
    for policy in [Activations::Keep, Activations::Lean, Activations::Recompute] {
        let found = case.grads(&batches, policy);
        assert!((found.0 / expected.0 - 1.0).abs() < 2e-3, "{} and {}", found.0, expected.0);
        for (i, (f, e)) in found.1.iter().zip(&expected.1).enumerate() {
            let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|v| (v as f64).powi(2)).sum::<f64>().sqrt();
            let difference = norm(&mut f.iter().zip(e).map(|(f, e)| f - e));
            let share = difference / norm(&mut e.iter().copied());
            assert!(share < 3e-2, "{policy:?}: gradient {i} differs by {share}");
        }
    }
}

/// A small checkpoint of each kind of network, with its name.
fn every_family() -> Vec<(String, Checkpoint)> {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
    let mut paths: Vec<_> = std::fs::read_dir(models).unwrap().flatten().map(|e| e.path()).collect();
    paths.sort();
    assert!(paths.len() >= 38, "{} families", paths.len());
    let open = |path: &Path| (path.display().to_string(), Checkpoint::open(&path.join("model")).unwrap());
    paths.iter().map(|path| open(path)).collect()
}

/// Rows see nothing of their neighbours, and what is computed twice has the same bits: as stored, and in NF4.
#[test]
fn packing_and_policies_change_no_family() {
    let rows = rows();
    let nf4 = BaseStorage::from_options(&QuantOptions::default()).unwrap();
    for (name, checkpoint) in every_family() {
        for storage in [BaseStorage::AsStored, nf4] {
            let config = LoraConfig { rank: 2, alpha: 4.0, ..LoraConfig::default() };
            let case = Case::of(&checkpoint, storage, cpu(2), Precision::F32, config);
            let packed = batches(&rows, 1000, true);
            let expected = case.grads(&packed, Activations::Keep);
            assert_same(&name, &case.grads(&batches(&rows, 1, true), Activations::Keep), &expected);
            for policy in [Activations::Lean, Activations::Recompute] {
                assert!(case.grads(&packed, policy) == expected, "{name} {policy:?}");
            }
        }
    }
}

/// Every part of every family takes and gives the types of the bf16 column.
#[test]
fn every_family_trains_in_bf16() {
    let random = Stream::new(4, "ids", 0);
    for (name, checkpoint) in every_family() {
        let dev = cpu(2);
        let (model, none) = load(&dev, &checkpoint, BaseStorage::AsStored, 64).unwrap();
        let ids: Vec<u32> = (0..20).map(|i| random.below(i, model.arch.vocab as u64) as u32).collect();
        let labels = ids.iter().map(|id| *id as i32).collect();
        let batches = batches(&[TrainRow { input_ids: ids, labels, goes_on: false }], 1000, true);
        let frozen = |precision| {
            let pass = Pass { dev: &dev, precision, params: &none, adapted: None, dropout: None };
            evaluate(&NextToken, &model, &pass, batches.iter().cloned().map(Ok)).unwrap().mean()
        };
        let expected = frozen(Precision::F32);
        for dora in [false, true] {
            let config = |dropout| LoraConfig { rank: 2, alpha: 4.0, dora, dropout, ..LoraConfig::default() };
            // Stacked experts take neither dropout nor magnitudes.
            let adapter = Adapter::init(&dev, &model, config(0.1), 1);
            let Ok(adapter) = adapter.or_else(|_| Adapter::init(&dev, &model, config(0.0), 1)) else {
                assert!(dora, "{}: no adapter", name);
                continue;
            };
            for policy in [Activations::Keep, Activations::Lean, Activations::Recompute] {
                let pass = Pass {
                    dev: &dev,
                    precision: Precision::Bf16,
                    params: &adapter.params,
                    adapted: Some(&adapter.adapted),
                    dropout: Some(DropoutKey { seed: 0, step: 1 }),
                };
                let (loss, grads) = gradients(&model, &pass, &batches, policy);
                assert!((loss / expected - 1.0).abs() < 0.02, "{}: {loss}, {expected}", name);
                let finite = grads.all().all(|g| g.to_vec().iter().all(|v| v.is_finite()));
                assert!(finite, "{} {policy:?} dora {dora}", name);
            }
        }
    }
}

/// Activations in 8 bits leave the loss as it is and turn the gradient by a little, in every policy that keeps any.
#[test]
fn eight_bit_activations_give_nearly_the_same_gradient() {
    let rows = batches(&rows(), 1000, true);
    let mut case = Case::f32(cpu(2));
    let (loss, expected) = case.grads(&rows, Activations::Keep);
    case.model.eight_bit = true;
    for policy in [Activations::Keep, Activations::Lean] {
        let (found, grads) = case.grads(&rows, policy);
        assert_eq!(found, loss, "the forward pass is exact");
        let (mut off, mut all) = (0.0, 0.0);
        for (g, e) in grads.iter().flatten().zip(expected.iter().flatten()) {
            off += (*g as f64 - *e as f64).powi(2);
            all += (*e as f64).powi(2);
        }
        let relative = (off / all).sqrt();
        assert!(relative > 0.0 && relative < 0.02, "{policy:?}: off by {relative}");
    }
    assert!(case.grads(&rows, Activations::Recompute).1 == expected, "inputs of layers stay as they are");
}

#[test]
fn dropout_follows_its_seed_and_stays_out_of_evaluation() {
    let batches = batches(&rows(), 1000, true);
    let mut case = Case::new(cpu(2), Precision::F32, Targets::AllLinear, 0.5);
    let first = case.grads(&batches, Activations::Keep);
    assert!(case.grads(&batches, Activations::Keep) == first, "the same seed");
    case.seed = 1;
    assert_ne!(case.grads(&batches, Activations::Keep).0, first.0, "another seed");
    let evaluate = |case: &Case| {
        let pass = Pass { dropout: None, ..case.pass() };
        evaluate(&NextToken, &case.model, &pass, batches.iter().cloned().map(Ok)).unwrap().mean()
    };
    let without = Case::f32(cpu(2));
    assert_eq!(evaluate(&case), evaluate(&without));
    assert!((without.grads(&batches, Activations::Keep).0 - evaluate(&case)).abs() < 1e-6);
}

/// Five optimizer steps; gives the adapter's values.
fn train(case: &mut Case, steps: usize) -> Vec<Vec<f32>> {
    let batches = batches(&rows(), 1000, true);
    let mut adamw = AdamW::new(&case.dev, &case.adapter.params, AdamWConfig::default());
    for _ in 0..steps {
        let (_, grads) = case.step(&batches, Activations::Lean);
        let norm = step::gradient_norm(&case.dev, &grads);
        let factor = clip::factor(norm, 1.0);
        adamw.step(&case.dev, &mut case.adapter.params, &grads, 1e-3, factor).unwrap();
    }
    case.adapter.params.iter().map(|(_, t)| t.to_vec()).collect()
}

#[test]
fn the_plain_loops_and_the_kernels_train_alike() {
    let batches = batches(&rows(), 1000, true);
    let mut trusted = Case::f32(Device::reference());
    let expected = trusted.grads(&batches, Activations::Keep);
    let start: Vec<Vec<f32>> = trusted.adapter.params.iter().map(|(_, t)| t.to_vec()).collect();
    let trained = train(&mut trusted, 2);
    assert!(start.iter().zip(&trained).all(|(a, b)| error(b, a) > 1e-4), "every tensor has moved");
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        let mut case = Case::f32(Device::Cpu(Cpu::new(2, isa).unwrap()));
        assert_same(isa.name(), &case.grads(&batches, Activations::Keep), &expected);
        for (found, expected) in train(&mut case, 2).iter().zip(&trained) {
            // A gradient of nearly zero may change its sign, and Adam moves by the sign.
            let far = found.iter().zip(expected).filter(|(f, e)| (*f - *e).abs() > 1e-5).count();
            assert!(far * 200 <= found.len(), "{}: {far} of {} values differ", isa.name(), found.len());
        }
    }
}

#[test]
fn training_an_adapter_leaves_the_base_as_it_is() {
    let mut case = Case::f32(cpu(2));
    let batches = batches(&rows(), 1000, true);
    let none = Params::default();
    let base = |case: &Case| {
        let pass = Pass { params: &none, adapted: None, dropout: None, ..case.pass() };
        evaluate(&NextToken, &case.model, &pass, batches.iter().cloned().map(Ok)).unwrap()
    };
    let weights = |case: &Case| {
        let mut all = Vec::new();
        for l in case.model.linears() {
            let mut values = vec![0.0; l.rows * l.cols];
            let ferrotune::model::parts::Base::Frozen(w) = &l.base else { panic!("{} is trained", l.name) };
            values.chunks_exact_mut(l.cols).enumerate().for_each(|(r, out)| w.decode(r, 0, out));
            all.push(values);
        }
        all
    };
    let (loss, before) = (base(&case), weights(&case));
    train(&mut case, 3);
    assert_eq!(base(&case), loss);
    assert!(weights(&case) == before);
}

#[test]
fn targets_in_the_upper_layer_get_the_gradients_of_the_whole() {
    let batches = batches(&rows(), 1000, true);
    let upper = Targets::Regex(r"model\.layers\.1\..*".into());
    let part = Case::new(cpu(2), Precision::F32, upper, 0.0);
    let mut whole = Case::f32(cpu(2));
    // Without effect in the lower layer, so that both compute the same.
    for name in whole.adapter.params.names().to_vec() {
        let id = whole.adapter.params.find(&name).unwrap();
        if name.contains(".layers.0.") && name.ends_with("lora_B.weight") {
            whole.adapter.params.get_mut(id).host_f32_mut().fill(0.0);
        }
    }
    for policy in [Activations::Keep, Activations::Lean, Activations::Recompute] {
        let (found, expected) = (part.step(&batches, policy), whole.step(&batches, policy));
        assert_eq!(found.0, expected.0);
        assert_eq!(part.adapter.params.len(), 14);
        for name in part.adapter.params.names() {
            let of =
                |case: &Case, grads: &Gradients| grads.get(case.adapter.params.find(name).unwrap()).to_vec();
            let (f, e) = (of(&part, &found.1), of(&whole, &expected.1));
            assert!(f.iter().any(|v| *v != 0.0), "{name} is zero");
            assert!(error(&f, &e) < 1e-6, "{name}: {}", error(&f, &e));
        }
    }
}
