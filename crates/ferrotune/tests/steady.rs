//! A steady training step asks the system for no memory of a tensor's size: its tensors lie in the device's pool, which has
//! them from the steps before. Lists of segments, products and parameters are ordinary vectors, and short.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ferrotune::data::pack::{Packing, micro_batches};
use ferrotune::data::packed_batch::PackedBatch;
use ferrotune::data::train_row::TrainRow;
use ferrotune::formats::Checkpoint;
use ferrotune::formats::quantized::{Blocks, QuantKind, Quantized};
use ferrotune::load::{BaseStorage, load};
use ferrotune::lora::{Adapter, LoraConfig, Targets};
use ferrotune::loss::NextToken;
use ferrotune::model::pass::DropoutKey;
use ferrotune::model::{Activations, Adapted, Decoder, Gradients, Params, Pass};
use ferrotune::optim::Optimizer;
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::optim::adamw8::AdamW8;
use ferrotune::train::step;
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::{Device, Precision};

/// The bytes from which on an allocation is large: that of the pool's large buffers. The longest list of the steps below
/// (the tokens' places in a mixture of experts) takes 9,600 bytes, the residual stream 115,200 to 153,600.
const LARGE: usize = 32 << 10;

/// The system's allocator, which remembers its largest allocation.
struct Watching;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; only a number is kept beside it.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Bytes of the largest allocation that `work` asks the system's allocator for.
fn largest(work: impl FnOnce()) -> usize {
    LARGEST.store(0, Relaxed);
    work();
    LARGEST.load(Relaxed)
}

/// What a step trains: an adapter, or the model's own parameters.
enum Trained {
    Adapter(Box<Adapter>),
    Model(Params),
}

impl Trained {
    fn params(&mut self) -> &mut Params {
        match self {
            Trained::Adapter(adapter) => &mut adapter.params,
            Trained::Model(params) => params,
        }
    }

    /// The parameters, and the branches that belong to them.
    fn parts(&self) -> (&Params, Option<&Adapted>) {
        match self {
            Trained::Adapter(adapter) => (&adapter.params, Some(&adapter.adapted)),
            Trained::Model(params) => (params, None),
        }
    }
}

/// One optimizer step over a batch.
fn train(
    (dev, precision, policy): (&Device, Precision, Activations),
    model: &Decoder,
    trained: &mut Trained,
    batch: &PackedBatch,
    grads: &mut Gradients,
    optimizer: &mut dyn Optimizer,
) {
    let (params, adapted) = trained.parts();
    let pass = Pass { dev, precision, params, adapted, dropout: Some(DropoutKey { seed: 7, step: 1 }) };
    grads.clear();
    step::forward_backward(model, &pass, &NextToken, batch, 0.01, policy, grads).unwrap();
    let norm = step::gradient_norm(dev, grads);
    assert!(norm > 0.0);
    optimizer.step(dev, trained.params(), grads, 1e-3, 1.0).unwrap();
}

/// The only test of this file: the allocations of another one beside it would be seen too.
#[test]
fn a_steady_step_allocates_nothing_large() {
    // Four rows that begin alike, stored on their own and with the beginning once.
    let row = |start: u32| {
        let input_ids: Vec<u32> = (0..50).chain((0..100).map(|i| start + i)).map(|i| 5 + i % 300).collect();
        TrainRow { labels: input_ids.iter().map(|id| *id as i32).collect(), input_ids, goes_on: false }
    };
    let rows = [0, 60, 120, 180].map(row);
    let rows: Vec<&TrainRow> = rows.iter().collect();
    let packings = [Packing::Together, Packing::Shared(1000)];
    let batches = packings.map(|packing| micro_batches(&rows, 1000, packing).remove(0));
    assert!(batches[1].segments.iter().any(|s| s.parent.is_some()));
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models");
    let open = |name: &str| Checkpoint::open(&models.join(name).join("model")).unwrap();
    let (dense, experts) = (open("llama3_rope"), open("qwen3_moe"));
    let nf4 = Quantized::new(QuantKind::Nf4, Blocks { block: 64, double: true }).unwrap().unwrap();
    for threads in [1, 2] {
        let cpu = Cpu::new(threads, Isa::detect()).unwrap();
        let dev = Device::Cpu(cpu.clone());
        for (method, checkpoint, storage) in [
            ("lora", &dense, BaseStorage::AsStored),
            ("qlora", &dense, BaseStorage::Quantized(nf4)),
            ("full", &dense, BaseStorage::Trained),
            ("lora of experts", &experts, BaseStorage::AsStored),
        ] {
            let is_dense = std::ptr::eq(checkpoint, &dense);
            for (precision, policy) in [Precision::F32, Precision::Bf16].into_iter().flat_map(|precision| {
                [Activations::Keep, Activations::Lean, Activations::Recompute].map(|p| (precision, p))
            }) {
                let (mut model, params): (Decoder, Params) = load(&dev, checkpoint, storage, 256).unwrap();
                model.eight_bit = policy == Activations::Lean;
                let mut trained = match method {
                    "full" => Trained::Model(params),
                    _ => {
                        let targets = Targets::AllLinear;
                        // Branches of experts stand without.
                        let dropout = if is_dense && policy == Activations::Recompute { 0.1 } else { 0.0 };
                        let config =
                            LoraConfig { rank: 4, alpha: 8.0, dropout, targets, ..LoraConfig::default() };
                        Trained::Adapter(Box::new(Adapter::init(&dev, &model, config, 3).unwrap()))
                    }
                };
                let mut grads = Gradients::zeros(&dev, trained.params());
                let mut wide = AdamW::new(&dev, trained.params(), AdamWConfig::default());
                let mut narrow = AdamW8::new(&dev, trained.params(), AdamWConfig::default());
                // What does not depend on each other is not tried in every combination.
                let some = if policy == Activations::Keep { 2 } else { 1 };
                for optimizer in [&mut wide as &mut dyn Optimizer, &mut narrow].into_iter().take(some) {
                    for batch in batches.iter().take(some) {
                        let how = (&dev, precision, policy);
                        let mut one = || train(how, &model, &mut trained, batch, &mut grads, optimizer);
                        (0..2).for_each(|_| one());
                        let (used, mapped) = (cpu.pool().used_bytes(), cpu.pool().mapped_bytes());
                        let bytes = largest(|| (0..2).for_each(|_| one()));
                        let case = format!("{method}, {threads} threads, {precision:?}, {policy:?}");
                        assert!(bytes < LARGE, "{case}: {bytes} bytes");
                        assert_eq!(cpu.pool().mapped_bytes(), mapped, "{case}");
                        // With more threads the order in which they ask for their own buffers varies, and where tokens
                        // go may change from step to step.
                        let same = threads == 1 && is_dense;
                        assert!(!same || cpu.pool().used_bytes() == used, "{case}");
                    }
                }
            }
        }
    }
}
