//! A steady training step takes its tensors from the device's pool, which has them from the steps before: what it asks
//! of the system's allocator are short lists (segments, products, parameters), few and none of the data's size.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ferrotune::checkpoint::Checkpoint;
use ferrotune::data::pack::{PackedBatch, Packing, micro_batches};
use ferrotune::data::tokenize::TrainRow;
use ferrotune::lora::{Adapter, LoraConfig, Targets};
use ferrotune::model::weights::{BaseStorage, load};
use ferrotune::model::{Activations, Decoder, Gradients, Params, Pass, Tokens};
use ferrotune::optim::Optimizer;
use ferrotune::optim::adamw::{AdamW, AdamWConfig};
use ferrotune::train::{eval, step};
use ferrotune_kernels::cpu::{Cpu, Isa};
use ferrotune_kernels::{Device, Precision};

/// The system's allocator, counting.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it is; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
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
static ALLOCATOR: Counting = Counting;

/// Bytes that `work` allocates, and the largest piece.
fn allocated(work: impl FnOnce()) -> (usize, usize) {
    LARGEST.store(0, Relaxed);
    let before = BYTES.load(Relaxed);
    work();
    (BYTES.load(Relaxed) - before, LARGEST.load(Relaxed))
}

/// One optimizer step over a batch.
fn train(
    dev: &Device,
    model: &Decoder,
    adapter: &mut Adapter,
    batch: &PackedBatch,
    grads: &mut Gradients,
    optimizer: &mut AdamW,
    precision: Precision,
    policy: Activations,
) {
    let segments = eval::segments(batch);
    let tokens = Tokens { ids: &batch.tokens, positions: &batch.positions, segments: &segments };
    let pass =
        Pass { dev, precision, params: &adapter.params, adapted: Some(&adapter.adapted), dropout: None };
    grads.clear();
    step::forward_backward(model, &pass, tokens, eval::targets(batch), 0.01, policy, grads).unwrap();
    let norm = step::gradient_norm(&pass, grads);
    assert!(norm > 0.0);
    optimizer.step(dev, &mut adapter.params, grads, 1e-3, 1.0).unwrap();
}

/// The only test of this file: another one beside it would be counted too.
#[test]
fn a_steady_step_allocates_no_tensor() {
    let ids: Vec<u32> = (0..600).map(|i| 5 + i % 300).collect();
    let row =
        |ids: &[u32]| TrainRow { input_ids: ids.to_vec(), labels: ids.iter().map(|id| *id as i32).collect() };
    let rows: Vec<TrainRow> = ids.chunks(150).map(row).collect();
    let batches = micro_batches(&rows.iter().collect::<Vec<_>>(), 1000, Packing::Together);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/models/llama3_rope/model");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    for threads in [1, 2] {
        let cpu = Cpu::new(threads, Isa::detect()).unwrap();
        let dev = Device::Cpu(cpu.clone());
        let (model, _): (Decoder, Params) = load(&dev, &checkpoint, BaseStorage::AsStored, 256).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            for policy in [Activations::Keep, Activations::Lean, Activations::Recompute] {
                let targets = Targets::AllLinear;
                let config = LoraConfig { rank: 4, alpha: 8.0, targets, ..LoraConfig::default() };
                let mut adapter = Adapter::init(&dev, &model, config, 3).unwrap();
                let mut grads = Gradients::zeros(&dev, &adapter.params);
                let mut optimizer = AdamW::new(&dev, &adapter.params, AdamWConfig::default());
                let mut one = || {
                    let (batch, o) = (&batches[0], &mut optimizer);
                    train(&dev, &model, &mut adapter, batch, &mut grads, o, precision, policy);
                };
                (0..2).for_each(|_| one());
                let pool = cpu.pool().used_bytes();
                let (bytes, largest) = allocated(|| (0..3).for_each(|_| one()));
                let case =
                    format!("{threads} threads, {precision:?}, {policy:?}: {bytes} bytes, {largest} at once");
                // A tensor of this batch has 600 rows of 64 values and more.
                assert!(largest <= 8 << 10 && bytes / 3 < 120 << 10, "{case}");
                // With more threads the order in which they ask for their own buffers is not always the same.
                assert!(threads > 1 || cpu.pool().used_bytes() == pool, "{case}");
            }
        }
    }
}
