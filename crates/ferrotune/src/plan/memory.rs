//! The memory of a run: what each part of the program says that it takes, summed.

use ferrotune_kernels::Precision;

use crate::Result;
use crate::arch::architecture::Architecture;
use crate::formats::Checkpoint;
use crate::load::{BaseForm, BaseStorage};
use crate::loss::cross_entropy;
use crate::model::streaming::Streaming;
use crate::model::{Activations, Policies, layer};
use crate::units::human;

/// Predicted bytes of a run, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryPlan {
    /// Weights that are held in memory or read from their mapped file.
    pub base: usize,
    /// Trainable values.
    pub trainable: usize,
    /// Their gradients.
    pub gradients: usize,
    /// Optimizer state.
    pub optimizer: usize,
    /// Activations kept for the backward pass.
    pub activations: usize,
    /// What a layer or the loss needs while it runs.
    pub workspace: usize,
    /// The program, its tokenizer and the data.
    pub program: usize,
    /// Layers of a streamed base that are read ahead: the system's memory, not that of the process.
    pub page_cache: usize,
}

impl MemoryPlan {
    /// Its parts with their names.
    pub fn parts(&self) -> [(&'static str, usize); 7] {
        [
            ("base", self.base),
            ("trainable", self.trainable),
            ("gradients", self.gradients),
            ("optimizer", self.optimizer),
            ("activations", self.activations),
            ("workspace", self.workspace),
            ("program", self.program),
        ]
    }

    /// The predicted peak of the process.
    pub fn total(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// What must be there for it: the peak, and what the system reads ahead.
    pub fn needs(&self) -> usize {
        self.total() + self.page_cache
    }

    /// The parts for people: `base 96 MB, trainable 20 MB, ...`.
    pub fn describe(&self) -> String {
        let parts = self.parts().map(|(name, bytes)| format!("{name} {}", human(bytes as u64))).join(", ");
        match self.page_cache {
            0 => parts,
            bytes => format!("{parts}; page cache {}", human(bytes as u64)),
        }
    }
}

/// What can be chosen to save memory. It changes no bit of the results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// What each layer keeps for its backward.
    pub(super) policies: Policies,
    /// What of the base leaves memory behind the work, if it does not stay there.
    pub(super) streamed: Option<Streaming>,
}

/// What a run asks for whatever way it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// How the base is held.
    pub(super) form: BaseForm,
    /// Column of the precision table.
    pub(super) precision: Precision,
    /// Whether activations wait in 8 bits.
    pub(super) eight_bit: bool,
    /// Tokens of the largest micro-batch.
    pub(super) tokens: usize,
    /// Bytes of the trained values.
    pub(super) trainable: usize,
    /// Values of the gradients that are there together.
    pub(super) gradients: usize,
    /// Bytes of the optimizer's state.
    pub(super) optimizer: usize,
    /// Values that a token keeps for the adapter in a layer.
    pub(super) branches: usize,
    /// Bytes that a token takes for the adapter while a layer is at work.
    pub(super) adapter: usize,
    /// Bytes that the initialization of the adapter takes for a while.
    pub(super) init: usize,
    /// Bytes of the tokenized rows, and of frozen weights that an adapter brings.
    pub(super) data: usize,
    /// Worker threads.
    pub(super) threads: usize,
}

/// Bytes of the program itself and of what it holds besides tokens.
const PROGRAM: usize = 26 << 20;

/// Bytes that a token of a vocabulary takes in a tokenizer, while it is read, and in the file that is kept for the results.
const TOKEN: usize = 640;

/// Bytes of a thread's own panels of operands.
const PANELS: usize = 64 * 1024 * 4 + 16 * 2066 * 4;

/// Predicts the peak of a training run.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    a: &Architecture,
    d: &Demand,
    choice: Choice,
) -> Result<MemoryPlan> {
    let Choice { policies, streamed } = choice;
    let Policies { below, kept } = policies;
    // What is converted while loading leaves memory again, one matrix after the other.
    let linears: usize = layer_bytes(checkpoint, a, d.form.linears)?.into_iter().sum();
    let base = linears.saturating_sub(streamed.map_or(0, |s| s.away)) + tables(checkpoint, a, d.form.tables)?;

    let branches = d.branches * d.precision.saved().size();
    let of_token = |layer: usize| {
        let policy = policies.for_layer(layer, a.layers);
        let own = policy.bytes_per_token(a, layer, d.precision, d.eight_bit);
        own + if policy == Activations::Recompute { 0 } else { branches }
    };
    let shared = |layer| layer::shared_per_token(a, layer, d.precision);
    let per_token: usize = (0..a.layers).map(|i| of_token(i) + shared(i)).sum();

    let mut busy = layer::workspace_per_token(a, d.precision) + d.adapter;
    if below == Activations::Recompute {
        // A layer that is computed again is used at once, as it is.
        let of_layer = |layer| Activations::Keep.bytes_per_token(a, layer, d.precision, false);
        busy += (0..a.layers).map(of_layer).max().unwrap_or(0) + branches;
    }
    if d.eight_bit && (below != Activations::Recompute || kept > 0) {
        busy += layer::unpacked_per_token(a, d.precision);
    }
    let private = d.threads * PANELS;
    let trained_table = if d.form.linears == BaseStorage::Trained { a.vocab * a.hidden / 64 } else { 0 };
    let workspace = (busy * d.tokens).max(cross_entropy::workspace(a, d.tokens)) + private + trained_table;
    let plan = MemoryPlan {
        base,
        trainable: d.trainable,
        gradients: d.gradients * 4,
        optimizer: d.optimizer,
        activations: per_token * d.tokens,
        workspace,
        program: PROGRAM + a.vocab * TOKEN + d.data,
        page_cache: streamed.map_or(0, |s| s.ahead),
    };
    // Pages of 2 MB at the ends of the pool's mappings of 64 MB.
    let pages = (plan.total() - plan.base - plan.program) / 32;
    Ok(MemoryPlan { workspace: (workspace + pages).max(d.init), ..plan })
}

/// Bytes of embedding and head.
fn tables(checkpoint: &Checkpoint, a: &Architecture, storage: BaseStorage) -> Result<usize> {
    let table = checkpoint.weight(&a.embedding_weight(), a.vocab, a.hidden)?;
    // An embedding that is not the head and lies in a file leaves memory when its rows were taken.
    let in_file = match (storage, table.dtype()) {
        (BaseStorage::Dense(dtype), Some(own)) => dtype == own,
        (storage, _) => storage == BaseStorage::AsStored,
    };
    // What is trained is counted as such, and its file is read once; it is converted once more when it is written.
    let each = match storage {
        BaseStorage::Trained => BaseStorage::AsStored.bytes_per_value(&table),
        storage => storage.bytes_per_value(&table),
    };
    let one = ((a.vocab * a.hidden) as f64 * each) as usize;
    Ok(if a.tied || in_file { one } else { 2 * one })
}

/// Bytes of the linears of each layer in a storage.
pub(super) fn layer_bytes(
    checkpoint: &Checkpoint,
    a: &Architecture,
    storage: BaseStorage,
) -> Result<Vec<usize>> {
    let (probe, rows, cols) = a.probe();
    let each = storage.bytes_per_value(&checkpoint.weight(&probe, rows, cols)?);
    // Experts may be stored in another form than the rest.
    let of_expert = match a.expert_probe() {
        Some((own, stacked, [_, cols, rows]))
            if checkpoint.contains(&own) && !checkpoint.contains(&stacked) =>
        {
            storage.bytes_per_value(&checkpoint.weight(&own, rows, cols)?)
        }
        Some((_, stacked, shape)) if a.experts_in_columns() => {
            storage.bytes_per_value(&checkpoint.stacked_columns(&stacked, shape, 0, 0, 1)?)
        }
        _ => each,
    };
    let of_layer = |i| {
        let experts = a.expert_elements(i);
        (a.layer_elements(i) - experts) as f64 * each + experts as f64 * of_expert
    };
    Ok((0..a.layers).map(|i| of_layer(i) as usize).collect())
}
