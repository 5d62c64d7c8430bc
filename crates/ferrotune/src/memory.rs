//! Memory: planned from shapes before a run, read from the system during it.

use ferrotune_kernels::ops::eight_bit::Packed;
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::{DType, Precision};

use crate::Result;
use crate::checkpoint::Checkpoint;
use crate::loss::cross_entropy::chunk_rows;
use crate::model::Activations;
use crate::model::families::{Architecture, NormPlaces};
use crate::model::weights::BaseStorage;

/// Predicted bytes of a run, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
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
}

impl Plan {
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

    /// The predicted peak.
    pub fn total(&self) -> usize {
        self.parts().iter().map(|(_, bytes)| bytes).sum()
    }

    /// The parts for people: `base 96 MB, trainable 20 MB, ...`.
    pub fn describe(&self) -> String {
        self.parts().map(|(name, bytes)| format!("{name} {}", human(bytes as u64))).join(", ")
    }
}

/// What a plan depends on besides the model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How the base is held.
    pub storage: BaseStorage,
    /// Column of the precision table.
    pub precision: Precision,
    /// Activation policy.
    pub policy: Activations,
    /// Whether activations wait in 8 bits.
    pub eight_bit: bool,
    /// Bytes of the base that leave memory behind the work; 0 if it stays there.
    pub streamed: usize,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// Trainable values.
    pub trainable: usize,
    /// Bytes of the optimizer's state.
    pub optimizer: usize,
    /// Sum of the ranks of a layer's branches.
    pub ranks: usize,
    /// Whether outputs are scaled after their sum (DoRA).
    pub scaled: bool,
    /// Bytes that the start of the adapter takes for a while.
    pub start: usize,
    /// Bytes of the tokenized rows, and of frozen weights that an adapter brings.
    pub data: usize,
    /// Worker threads.
    pub threads: usize,
}

/// Predicts the peak of a training run.
pub fn plan(checkpoint: &Checkpoint, a: &Architecture, s: Shape) -> Result<Plan> {
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let embedding = a.vocab * a.hidden;
    let outer = checkpoint.weight("model.embed_tokens.weight", a.vocab, a.hidden)?.nbytes()
        * if a.tied { 1 } else { 2 };
    let linears = a.linear_elements() as f64 * bytes_per_value(checkpoint, a, s.storage)?;
    // What is converted while loading leaves memory again, one matrix after the other.
    // What is trained is not there a second time; its tables are converted once more when they are written.
    let base = (linears as usize).saturating_sub(s.streamed) + outer;

    let saved = s.precision.saved().size();
    let narrow = if s.precision.saved() == DType::F32 { 1 } else { 2 };
    // A layer that is computed again is used at once, as it is.
    let eight_bit = s.eight_bit && s.policy != Activations::Recompute;
    let waiting = |values: usize| if eight_bit { Packed::nbytes(values) } else { values * saved };
    // A half whose output is normed keeps it.
    let normed = if matches!(a.norms, NormPlaces::Around | NormPlaces::After) { a.hidden * saved } else { 0 };
    let attention = waiting(a.hidden + kv + q) + (q + kv) * saved + a.heads * 4 + s.ranks * saved + normed;
    let mlp = waiting(a.hidden) + normed;
    let hidden = waiting(a.hidden_width());
    let per_token = match s.policy {
        Activations::Keep => attention + mlp + hidden,
        Activations::Lean => attention + mlp,
        Activations::Recompute => a.hidden * 4,
    };
    let recomputed = if s.policy == Activations::Recompute { attention + mlp + hidden } else { 0 };
    // The widest moment of a layer: gate, up, their gradients, packed operands; and the residual stream twice.
    let busy = 4 * a.ffn * 4 + 2 * a.ffn * 4 / narrow + 6 * a.hidden * 4 + recomputed;
    // The sum before scaling, its gradient, and with dropout both parts of the input.
    let busy = busy + if s.scaled { 4 * a.ffn * 4 } else { 0 };
    // What a layer takes out of its 8 bits.
    let busy = busy + if eight_bit { (a.hidden + a.hidden_width()) * saved } else { 0 };
    let chunk = chunk_rows(a.vocab).min(s.tokens);
    // The gradient takes the place of the logits.
    let head = chunk * (a.vocab * 4 + 4 * a.hidden * 4);
    let private = s.threads * (64 * 1024 * 4 + 16 * 2066 * 4);
    let trained_embedding = if s.storage == BaseStorage::Trained { embedding / 64 } else { 0 };
    let workspace = (busy * s.tokens).max(head + 3 * a.hidden * 4 * s.tokens) + private + trained_embedding;
    let plan = Plan {
        base,
        trainable: s.trainable * 4,
        gradients: s.trainable * 4,
        optimizer: s.optimizer,
        activations: per_token * a.layers * s.tokens,
        workspace,
        program: 40 * 1024 * 1024 + a.vocab * 900 + s.data,
    };
    // Pages of 2 MB at the ends of the pool's mappings of 64 MB.
    let pages = (plan.total() - plan.base - plan.program) / 32;
    Ok(Plan { workspace: (workspace + pages).max(s.start), ..plan })
}

/// Bytes that a value of the layers' linears takes in a storage.
pub(crate) fn bytes_per_value(
    checkpoint: &Checkpoint,
    a: &Architecture,
    storage: BaseStorage,
) -> Result<f64> {
    let (probe, rows, cols) = a.probe();
    let stored = checkpoint.weight(probe, rows, cols)?;
    Ok(match (storage, stored.storage()) {
        (BaseStorage::AsStored, _) => stored.nbytes() as f64 / (rows * cols) as f64,
        (BaseStorage::Dense(dtype), Storage::Dense(own, _)) => dtype.size().min(own.size()) as f64,
        (BaseStorage::Dense(dtype), _) => dtype.size() as f64,
        (BaseStorage::FourBit(o), _) => 0.5 + if o.double { 1.02 } else { 4.0 } / o.block as f64,
        (BaseStorage::Int8, _) => 1.0 + 4.0 / a.hidden as f64,
        (BaseStorage::Trained, _) => 0.0,
    })
}

/// Resident memory of this process: now, and at its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resident {
    /// Bytes now.
    pub now: u64,
    /// Largest so far.
    pub peak: u64,
}

/// Reads the resident memory; zeros where the system does not tell.
pub fn resident() -> Resident {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_whitespace().next()).and_then(|v| v.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    };
    Resident { now: field("VmRSS:"), peak: field("VmHWM:") }
}

/// Memory that the system could give to a new program; `None` where it does not tell.
pub fn available() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Bytes in the unit that reads best: `512 MB`, `3.4 GB` (powers of ten).
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.0} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
