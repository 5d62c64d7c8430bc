//! What is trained, as far as a plan must know it.

use std::path::Path;

use ferrotune_kernels::ops::adamw::PAGED_WINDOW;
use ferrotune_kernels::{Device, Precision};

use super::memory::Demand;
use crate::Result;
use crate::arch::architecture::Architecture;
use crate::data::batches::BatchSizes;
use crate::load::BaseForm;
use crate::lora::kinds::kind;
use crate::lora::{Adapter, LoraConfig, peft};
use crate::model::Decoder;
use crate::optim;
use crate::run_config::{ActivationStorage, MethodKind, RunConfig, WeightKind};

/// What the run will train.
#[derive(Debug)]
pub(super) struct Trained {
    /// Lengths of the tensors.
    lengths: Vec<usize>,
    /// Values that a token keeps for the adapter in all layers.
    kept: usize,
    /// Bytes that a token takes for the adapter while a layer is at work.
    workspace: usize,
    /// Whether the initialization of the adapter decomposes the frozen weights.
    decomposes: bool,
    /// Bytes of frozen weights that are not the model's own.
    changed: usize,
}

/// Whether layers are updated as soon as their gradients are whole: where nothing is clipped, and no further micro-batch adds
/// to them.
pub(super) fn layer_by_layer(config: &RunConfig, single: bool) -> bool {
    config.method.kind == MethodKind::Full && config.train.max_grad_norm <= 0.0 && single
}

impl Trained {
    /// What the run file would make beside a model, of which only the shapes are looked at.
    pub(super) fn new(
        config: &RunConfig,
        lora: Option<LoraConfig>,
        dev: &Device,
        model: &Decoder,
    ) -> Result<Self> {
        let Some(lora) = lora else { return Ok(Trained::full(model)) };
        let workspace = kind(&lora).workspace_per_token(&model.arch);
        let decomposes = lora.init.changes_base();
        let foreseen = Adapter::sizes(dev, model, lora);
        let (lengths, kept) = foreseen.map_err(|e| match &config.train.init_adapter {
            Some(folder) => peft::in_folder(e, Path::new(folder)),
            None => e.under("method"),
        })?;
        // Weights that an initialization changes are kept beside the model's, in f32 at most.
        let changed = if decomposes { 4 * model.arch.linear_elements() } else { 0 };
        Ok(Trained { lengths, kept, workspace, decomposes, changed })
    }

    /// All of the model.
    fn full(model: &Decoder) -> Self {
        let mut lengths = vec![model.arch.vocab * model.arch.hidden];
        lengths.extend(model.linears().iter().map(|l| l.rows * l.cols));
        lengths.extend(model.small_tensors().iter().map(|t| t.part.len()));
        Trained { lengths, kept: 0, workspace: 0, decomposes: false, changed: 0 }
    }

    /// Values that are trained.
    pub(super) fn elements(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Values of the gradients that are there together.
    fn gradients(&self, config: &RunConfig, a: &Architecture, single: bool) -> usize {
        if !layer_by_layer(config, single) {
            return self.elements();
        }
        // Norms and biases are few beside the linears; a tied table waits for the embedding's part of its gradient.
        let layer =
            (0..a.layers).map(|i| a.layer_elements(i) + 16 * a.widest_ffn().max(a.hidden)).max().unwrap_or(0);
        let table = a.vocab * a.hidden;
        if a.tied { table + layer } else { table.max(layer) }
    }

    /// Bytes of the parameters in memory.
    fn parameter_bytes(&self, weights: WeightKind) -> usize {
        let whole = self.elements();
        match weights {
            WeightKind::F32 => 4 * whole,
            // The copies, and what is in memory of the values themselves: parts at work, or a tensor that is written.
            WeightKind::Bf16 => {
                let largest = self.lengths.iter().max().map_or(0, |len| 4 * len);
                2 * whole + PAGED_WINDOW.max(largest).min(4 * whole)
            }
        }
    }

    /// What the run asks for whatever way it takes.
    pub(super) fn demand(
        &self,
        config: &RunConfig,
        a: &Architecture,
        form: BaseForm,
        precision: Precision,
        dev: &Device,
        batches: BatchSizes,
    ) -> Demand {
        // Decompositions in f64, one on each thread.
        let one = 20 * a.widest_ffn() * a.hidden + 24 * a.hidden * a.hidden;
        let threads = dev.threads().count();
        Demand {
            form,
            precision,
            eight_bit: config.train.activation_storage == ActivationStorage::Int8,
            tokens: batches.largest,
            trainable: self.parameter_bytes(config.train.weights),
            gradients: self.gradients(config, a, batches.single),
            optimizer: optim::state_bytes(config.train.optimizer, &self.lengths),
            branches: self.kept.div_ceil(a.layers.max(1)),
            adapter: self.workspace,
            init: if self.decomposes { threads * one } else { 0 },
            data: batches.bytes + self.changed,
            threads,
        }
    }
}
