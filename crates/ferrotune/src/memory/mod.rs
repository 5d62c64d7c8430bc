//! Memory: planned from shapes before a run, read from the system during it.

mod system;

pub use system::{Resident, available, limit, resident};

use ferrotune_kernels::ops::eight_bit::Packed;
use ferrotune_kernels::quant::Storage;
use ferrotune_kernels::{DType, Precision};

use crate::Result;
use crate::arch::architecture::{Architecture, NormPlaces};
use crate::formats::Checkpoint;
use crate::load::{BaseForm, BaseStorage};
use crate::loss::cross_entropy::chunk_rows;
use crate::model::streaming::Streaming;
use crate::model::{Activations, Policies};
use crate::units::human;

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
    /// Layers of a streamed base that are read ahead: the system's memory, not that of the process.
    pub page_cache: usize,
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

/// What a plan depends on besides the model.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// How the base is held.
    pub form: BaseForm,
    /// Column of the precision table.
    pub precision: Precision,
    /// Activation policy of each layer.
    pub policies: Policies,
    /// Whether activations wait in 8 bits.
    pub eight_bit: bool,
    /// What of the base leaves memory behind the work, if it does not stay there.
    pub streamed: Option<Streaming>,
    /// Tokens of the largest micro-batch.
    pub tokens: usize,
    /// Bytes of the trainable values.
    pub trainable: usize,
    /// Values of the gradients that are there together.
    pub gradients: usize,
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

/// Bytes of the program itself and of what it holds besides tokens.
const PROGRAM: usize = 26 << 20;

/// Bytes that a token of a vocabulary takes in a tokenizer, while it is read, and in the file that is kept for the results.
const TOKEN: usize = 640;

/// Predicts the peak of a training run.
pub fn plan(checkpoint: &Checkpoint, a: &Architecture, s: Shape) -> Result<Plan> {
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let embedding = a.vocab * a.hidden;
    let table = checkpoint.weight("model.embed_tokens.weight", a.vocab, a.hidden)?;
    // An embedding that is not the head and lies in a file leaves memory when its rows were taken.
    let in_file = match (s.form.tables, table.storage()) {
        (BaseStorage::Dense(dtype), Storage::Dense(own, _)) => dtype == *own,
        (storage, _) => storage == BaseStorage::AsStored,
    };
    // What is trained is counted as such, and its file is read once.
    let each = match s.form.tables {
        BaseStorage::Trained => BaseStorage::AsStored.bytes_per_value(&table),
        storage => storage.bytes_per_value(&table),
    };
    let tables = (embedding as f64 * each) as usize * if a.tied || in_file { 1 } else { 2 };
    let linears = a.linear_elements() as f64 * bytes_per_value(checkpoint, a, s.form.linears)?;
    // What is converted while loading leaves memory again, one matrix after the other.
    // What is trained is not there a second time; its tables are converted once more when they are written.
    let base = (linears as usize).saturating_sub(s.streamed.map_or(0, |s| s.away)) + tables;

    let saved = s.precision.saved().size();
    let narrow = if s.precision.saved() == DType::F32 { 1 } else { 2 };
    // A half whose output is normed keeps it.
    let normed = if matches!(a.norms, NormPlaces::Around | NormPlaces::After) { a.hidden * saved } else { 0 };
    // What a token keeps of a layer but for gate and up, and these; in 8 bits or as it is.
    let parts = |eight_bit: bool| {
        let waiting = |values: usize| if eight_bit { Packed::nbytes(values) } else { values * saved };
        let attention =
            waiting(a.hidden + kv + q) + (q + kv) * saved + a.heads * 4 + s.ranks * saved + normed;
        (attention + waiting(a.hidden) + normed, waiting(a.hidden_width()))
    };
    let of_token = |policy| match (policy, parts(s.eight_bit)) {
        (Activations::Keep, (lean, wide)) => lean + wide,
        (Activations::Lean, (lean, _)) => lean,
        (Activations::Recompute, _) => a.hidden * 4,
    };
    let Policies { below, kept } = s.policies;
    let per_token = of_token(below) * (a.layers - kept) + of_token(Activations::Keep) * kept;
    // A layer that is computed again is used at once, as it is.
    let (lean, wide) = parts(false);
    let recomputed = if below == Activations::Recompute { lean + wide } else { 0 };
    let eight_bit = s.eight_bit && (below != Activations::Recompute || kept > 0);
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
    let trained_embedding = if s.form.linears == BaseStorage::Trained { embedding / 64 } else { 0 };
    let workspace = (busy * s.tokens).max(head + 3 * a.hidden * 4 * s.tokens) + private + trained_embedding;
    let plan = Plan {
        base,
        trainable: s.trainable,
        gradients: s.gradients * 4,
        optimizer: s.optimizer,
        activations: per_token * s.tokens,
        workspace,
        program: PROGRAM + a.vocab * TOKEN + s.data,
        page_cache: s.streamed.map_or(0, |s| s.ahead),
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
    Ok(storage.bytes_per_value(&checkpoint.weight(probe, rows, cols)?))
}
