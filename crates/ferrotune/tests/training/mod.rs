//! Steps on the tiny models of the test data, and how their gradients are compared.

use std::path::Path;

use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::formats::Checkpoint;
use ferrotune::lora::Adapter;
use ferrotune::loss::{Loss, NextToken};
use ferrotune::model::{Decoder, Gradients, Pass, Policies};
use ferrotune::train::step;
use ferrotune_kernels::Device;
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::rng::Stream;

/// The best instruction set on so many threads.
pub(crate) fn cpu(threads: usize) -> Device {
    Device::Cpu(Cpu::new(threads, Isa::detect()).unwrap())
}

/// A tiny model of `testdata`.
pub(crate) fn checkpoint(name: &str) -> Checkpoint {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
    Checkpoint::open(&models.join(name).join("model")).unwrap()
}

/// Gives matrices that start at zero values, so that every gradient is there.
pub(crate) fn fill_zeros(adapter: &mut Adapter) {
    for name in adapter.params.names().to_vec() {
        let id = adapter.params.find(&name).unwrap();
        let values = adapter.params.get_mut(id).host_f32_mut();
        if values.iter().all(|v| *v == 0.0) {
            let random = Stream::new(2, &name, 0);
            values.iter_mut().enumerate().for_each(|(i, v)| *v = 0.1 * random.normal(i as u64));
        }
    }
}

/// Mean loss and gradients of a step.
pub(crate) fn gradients(
    model: &Decoder,
    pass: &Pass<'_>,
    batches: &[PackedBatch],
    policies: impl Into<Policies>,
) -> (f64, Gradients) {
    let policies = policies.into();
    let mut grads = Gradients::zeros(pass.dev, pass.params);
    let labels: usize = batches.iter().map(PackedBatch::label_tokens).sum();
    let mut loss = Loss::default();
    for batch in batches {
        let scale = 1.0 / labels as f32;
        loss.add(
            step::forward_backward(model, pass, &NextToken, batch, scale, policies, &mut grads).unwrap(),
        );
    }
    assert_eq!(loss.count, labels);
    (loss.mean(), grads)
}

/// Largest difference over the largest expected value.
pub(crate) fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-9f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).fold(0.0f32, |m, (a, b)| m.max((a - b).abs() / scale))
}

/// Loss and gradients of two ways to make the same step.
#[track_caller]
pub(crate) fn assert_same(what: &str, found: &(f64, Vec<Vec<f32>>), expected: &(f64, Vec<Vec<f32>>)) {
    assert!((found.0 - expected.0).abs() < 1e-6, "{what}: loss {} and {}", found.0, expected.0);
    for (i, (f, e)) in found.1.iter().zip(&expected.1).enumerate() {
        assert!(e.iter().any(|v| *v != 0.0), "{what}: gradient {i} is zero");
        assert!(error(f, e) < 1e-5, "{what}: gradient {i} differs by {}", error(f, e));
    }
}
