//! What a run reports while it goes on: the lines of `metrics.jsonl` and other events.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::data::tokenize::PrepReport;
use crate::plan::MemoryPlan;

/// A line of `metrics.jsonl` for an optimizer step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRecord {
    /// Optimizer step, from 1.
    pub step: usize,
    /// Epochs done after it.
    pub epoch: f64,
    /// Sum of token losses over label tokens of the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// L2 norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step's rows; there is no padding.
    pub tokens: usize,
    /// Tokens that were stored and computed for them, fewer where rows share some.
    pub stored_tokens: usize,
    /// Tokens that have a label.
    pub label_tokens: usize,
    /// Wall time of the step.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// Resident memory after the step.
    pub rss_bytes: u64,
    /// Largest resident memory so far.
    pub peak_rss_bytes: u64,
    /// What the objective measures besides the loss, each under its own name.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// A line of `metrics.jsonl` for an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalRecord {
    /// Optimizer steps done.
    pub step: usize,
    /// Sum of token losses over label tokens of the held-out rows.
    pub eval_loss: f64,
    /// Label tokens of the held-out rows.
    pub eval_label_tokens: usize,
    /// What the objective measures besides the loss, each as `eval_` and its name.
    #[serde(flatten)]
    pub metrics: BTreeMap<String, f64>,
}

/// What is about to run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `full`, `lora` or `qlora`.
    pub method: String,
    /// Storage of the base's linears.
    pub base_format: String,
    /// Column of the precision table.
    pub precision: &'static str,
    /// Instruction set.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Values that are trained.
    pub trainable_parameters: usize,
    /// Values of the base and the adapter.
    pub total_parameters: usize,
    /// Optimizer steps of the run.
    pub steps: usize,
    /// Tokens of the rows of all steps.
    pub tokens: usize,
    /// Tokens that are computed for them, fewer where rows share some.
    pub stored_tokens: usize,
    /// Steps between lines of the log.
    pub log_every: usize,
    /// Activation policy.
    pub activations: crate::model::Activations,
    /// Layers nearest to the head that keep everything, whatever that policy is.
    pub kept_layers: usize,
    /// Whether layers of the base leave memory behind the work.
    pub streamed: bool,
    /// Predicted peak memory by part.
    pub plan: MemoryPlan,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The rows are ready.
    Prepared {
        /// Counts of the training rows.
        train: PrepReport,
        /// Rows held out.
        eval_rows: usize,
    },
    /// Something that the user should know.
    Warning {
        /// A sentence.
        text: String,
    },
    /// Before the first step.
    Start(Summary),
    /// A step is done.
    Step(StepRecord),
    /// An evaluation is done.
    Eval(EvalRecord),
    /// A checkpoint is whole on disk.
    Checkpoint {
        /// Its folder.
        path: String,
    },
    /// A run goes on from a checkpoint.
    Resumed {
        /// Its folder.
        path: String,
        /// Steps that it had done.
        step: usize,
    },
}
