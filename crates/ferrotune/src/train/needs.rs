//! What a memory plan must know of a run: of what is trained, how the base is held, and of the rows.

use std::path::Path;

use ferrotune_kernels::{Device, Precision, Tensor};

use super::setup::{self, Trainable};
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::load::BaseForm;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::memory::Shape;
use crate::model::{Activations, Decoder};
use crate::run_config::{ActivationStorage, MethodKind, RunConfig};

/// Of what is trained.
#[derive(Debug)]
pub(super) struct Needs {
    /// Lengths of the tensors.
    lengths: Vec<usize>,
    /// Sum of the ranks of all branches.
    ranks: usize,
    /// Whether outputs are scaled after their sum (DoRA).
    scaled: bool,
    /// Whether the start of the adapter decomposes the frozen weights.
    decomposes: bool,
    /// Bytes of frozen weights that are not the model's own.
    changed: usize,
}

/// How the base is held, and who computes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) form: BaseForm,
    pub(super) precision: Precision,
    pub(super) threads: usize,
}

/// Of the rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    /// Tokens of the largest micro-batch.
    pub(super) largest: usize,
    /// Bytes of the tokenized rows.
    pub(super) bytes: usize,
    /// Whether every step is one micro-batch.
    pub(super) single: bool,
}

/// Whether layers are updated as soon as their gradients are whole: where nothing is clipped, and no further micro-batch adds
/// to them.
pub(super) fn layer_by_layer(config: &RunConfig, single: bool) -> bool {
    config.method.kind == MethodKind::Full && config.train.max_grad_norm <= 0.0 && single
}

impl Needs {
    /// Of what is there.
    pub(super) fn of(trainable: &Trainable) -> Self {
        let lengths = trainable.params().iter().map(|(_, p)| Tensor::len(p)).collect();
        match trainable {
            Trainable::Full(_) => Needs::full(lengths),
            Trainable::Adapter(a) => Needs {
                lengths,
                ranks: a.ranks(),
                scaled: a.config.dora,
                decomposes: a.config.init.changes_base(),
                changed: a.changed_bytes(),
            },
        }
    }

    /// Of what the run file would make beside a model, of which only the shapes are looked at.
    pub(super) fn foreseen(
        config: &RunConfig,
        lora: Option<LoraConfig>,
        dev: &Device,
        model: &Decoder,
    ) -> Result<Self> {
        let Some(lora) = lora else {
            let mut lengths = vec![model.arch.vocab * model.arch.hidden];
            for l in model.linears() {
                lengths.push(l.rows * l.cols);
                lengths.extend(l.bias.as_ref().map(|_| l.rows));
            }
            for n in model.norms() {
                let len = n.width * n.heads.unwrap_or(1);
                lengths.push(len);
                lengths.extend(n.bias.as_ref().map(|_| len));
            }
            return Ok(Needs::full(lengths));
        };
        let (scaled, decomposes) = (lora.dora, lora.init.changes_base());
        let foreseen = Adapter::foresee(dev, model, lora);
        let (lengths, ranks) = foreseen.map_err(|e| match &config.train.init_adapter {
            Some(folder) => peft::of_folder(e, Path::new(folder)),
            None => e,
        })?;
        // Weights that an initialisation changes are kept beside the model's, in f32 at most.
        let changed = if decomposes { 4 * model.arch.linear_elements() } else { 0 };
        Ok(Needs { lengths, ranks, scaled, decomposes, changed })
    }

    fn full(lengths: Vec<usize>) -> Self {
        Needs { lengths, ranks: 0, scaled: false, decomposes: false, changed: 0 }
    }

    /// Values that are trained.
    pub(super) fn elements(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Values of the gradients that are there together.
    fn gradients(&self, config: &RunConfig, a: &Architecture, rows: Rows) -> usize {
        if !layer_by_layer(config, rows.single) {
            return self.elements();
        }
        // Norms and biases are few beside the linears; a tied table waits for the embedding's part of its gradient.
        let layer = (0..a.layers).map(|i| a.layer_elements(i) + 16 * a.ffn.max(a.hidden)).max().unwrap_or(0);
        let table = a.vocab * a.hidden;
        if a.tied { table + layer } else { table.max(layer) }
    }

    /// What the plan starts from: everything kept, the base in memory.
    pub(super) fn shape(&self, config: &RunConfig, a: &Architecture, held: Held, rows: Rows) -> Shape {
        // Decompositions in f64, one on each thread.
        let one = 20 * a.ffn * a.hidden + 24 * a.hidden * a.hidden;
        let workers = if self.decomposes { held.threads } else { 0 };
        Shape {
            form: held.form,
            precision: held.precision,
            policies: Activations::Keep.into(),
            eight_bit: config.train.activation_storage == ActivationStorage::Int8,
            streamed: None,
            tokens: rows.largest,
            trainable: setup::parameter_bytes(&config.train, &self.lengths),
            gradients: self.gradients(config, a, rows),
            optimizer: setup::optimizer_bytes(&config.train, &self.lengths),
            ranks: self.ranks.div_ceil(a.layers.max(1)),
            scaled: self.scaled,
            start: workers * one,
            data: rows.bytes + self.changed,
            threads: held.threads,
        }
    }
}
