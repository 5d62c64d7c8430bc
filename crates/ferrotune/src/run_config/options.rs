//! The sections of a run file with their defaults.

use super::layers::Choice;
use serde::{Serialize, Serializer};

/// Bytes that all kept bases take together, if nothing else is said.
pub const DEFAULT_CACHE_LIMIT: u64 = 64 << 30;

/// An enum of words: the words for reading, the first of a variant for writing.
macro_rules! choices {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl Choice for $name {
            const WORDS: &'static [(&'static str, Self)] =
                &[$(($word, $name::$variant) $(, ($alias, $name::$variant))*),+];
        }

        impl $name {
            /// The word in a run file.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

pub(super) use choices;

choices! {
    /// A floating-point type, or a choice left to the program.
    FloatKind {
        /// The program's choice.
        #[default]
        Auto = "auto",
        /// 32 bits.
        F32 = "f32" | "float32" | "fp32",
        /// bfloat16.
        Bf16 = "bf16" | "bfloat16",
    }
}

choices! {
    /// The form of embedding and head, which are kept apart from the quantized linears of the layers.
    TableKind {
        /// As the base file has them, or dense where the layers are.
        #[default]
        Auto = "auto",
        /// As the base file has them.
        Keep = "keep",
        /// bfloat16.
        Bf16 = "bf16" | "bfloat16",
        /// 4-bit normal float, in the blocks of `method.quant`.
        Nf4 = "nf4",
        /// 8-bit integers with a scale per row.
        Int8 = "int8",
    }
}

choices! {
    /// The shape of the rows.
    DataFormat {
        /// Found out from the first rows.
        #[default]
        Auto = "auto",
        /// `{"text"}`.
        Text = "text",
        /// `{"prompt", "completion"}`, strings or lists of messages.
        PromptCompletion = "prompt_completion",
        /// `{"instruction", "input", "output"}`.
        Instruction = "instruction" | "alpaca",
        /// `{"messages"}` or `{"conversations"}`.
        Messages = "messages" | "chat" | "sharegpt" | "conversations",
        /// `{"input_ids", "labels"}`.
        Tokens = "tokens",
    }
}

choices! {
    /// Which tokens are supervised.
    Supervise {
        /// What the assistant wrote, or the completion; all of a plain text.
        #[default]
        Assistant = "assistant" | "completion",
        /// Every token.
        All = "all",
    }
}

choices! {
    /// Which end of a row that is too long survives.
    Truncation {
        /// The start.
        #[default]
        KeepStart = "keep_start",
        /// The end.
        KeepEnd = "keep_end",
    }
}

choices! {
    /// What happens to a row that is too long.
    Overlong {
        /// It is cut.
        #[default]
        Truncate = "truncate",
        /// It is left out.
        Drop = "drop",
    }
}

choices! {
    /// What happens to rows that cannot be used.
    BadRowPolicy {
        /// They are told together, and nothing is done.
        #[default]
        Fail = "fail",
        /// They are left out and counted.
        Skip = "skip",
    }
}

choices! {
    /// The course of the learning rate after warmup.
    Schedule {
        /// Down to the minimum in a straight line.
        #[default]
        Linear = "linear",
        /// Down to the minimum along half a cosine.
        Cosine = "cosine",
        /// Unchanged.
        Constant = "constant" | "constant_with_warmup",
    }
}

choices! {
    /// The optimizer.
    OptimizerKind {
        /// Adam with decoupled weight decay.
        #[default]
        Adamw = "adamw" | "adamw_torch",
        /// The same with moments in a file, whose memory the system may take.
        PagedAdamw = "paged_adamw" | "paged_adamw_32bit",
        /// The same with moments in 8 bits.
        Adamw8bit = "adamw8bit" | "adamw_8bit" | "adamw_bnb_8bit" | "paged_adamw_8bit",
    }
}

choices! {
    /// In which type the matrices of full fine-tuning are in memory.
    WeightKind {
        /// f32.
        #[default]
        F32 = "f32" | "float32" | "fp32",
        /// bf16, as products read them anyway; the f32 values that the optimizer changes are in a file, whose memory the
        /// system may take.
        Bf16 = "bf16" | "bfloat16",
    }
}

choices! {
    /// What the summed token losses of an optimizer step are divided by.
    LossNormalization {
        /// The tokens that are predicted: the mean over what was summed. transformers 5.23 does the same.
        #[default]
        Targets = "targets",
        /// The labels that are not -100 before they are shifted, so also the first token of an unmasked row, which
        /// nothing predicts: what the trainer of transformers did from 4.46 until its pull request 46204 of May 2026.
        /// Losses and gradients are smaller by `rows / labels`; for loss curves laid over each other.
        Labels = "labels",
    }
}

choices! {
    /// Which activations are kept for the backward pass.
    ActivationPolicy {
        /// The fastest that fits the memory budget.
        #[default]
        Auto = "auto",
        /// All.
        Keep = "keep",
        /// Those that are expensive to compute again.
        Lean = "lean",
        /// Only the input of each layer.
        Recompute = "recompute",
    }
}

choices! {
    /// How activations wait for the backward pass.
    ActivationStorage {
        /// As they were computed.
        #[default]
        Exact = "exact",
        /// Most of them in 8 bits: half the memory, and gradients that are off by a little.
        Int8 = "int8",
    }
}

choices! {
    /// Whether a frozen base stays in its file, of which a few layers at a time are in memory.
    StreamPolicy {
        /// If the run does not fit the memory budget otherwise.
        #[default]
        Auto = "auto",
        /// Always.
        Always = "always",
        /// Never.
        Never = "never",
    }
}

/// The section `model`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelOptions {
    /// A hub id, a folder or a `.gguf` file.
    pub base: String,
    /// Branch, tag or commit on the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Storage of a dense base.
    pub dtype: FloatKind,
    /// Form of embedding and head.
    #[serde(skip_serializing_if = "is_default_table")]
    pub embeddings: TableKind,
    /// Keep a base that was quantized for the next start.
    #[serde(skip_serializing_if = "is_default_cache")]
    pub cache: bool,
    /// Bytes that all kept bases may take; those not used for longest are removed.
    #[serde(skip_serializing_if = "is_default_limit")]
    pub cache_limit: u64,
}

// Settings that hardly anybody touches are written only when they are not the default.
fn is_default_table(kind: &TableKind) -> bool {
    *kind == TableKind::Auto
}

fn is_default_weights(kind: &WeightKind) -> bool {
    *kind == WeightKind::F32
}

fn is_default_bad_rows(policy: &BadRowPolicy) -> bool {
    *policy == BadRowPolicy::Fail
}

fn is_default_cache(on: &bool) -> bool {
    *on
}

fn is_default_limit(limit: &u64) -> bool {
    *limit == DEFAULT_CACHE_LIMIT
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            base: String::new(),
            revision: None,
            dtype: FloatKind::default(),
            embeddings: TableKind::default(),
            cache: true,
            cache_limit: DEFAULT_CACHE_LIMIT,
        }
    }
}

/// The section `data`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataOptions {
    /// Files of rows.
    pub train: Vec<String>,
    /// Rows to evaluate on.
    pub eval: EvalSource,
    /// Shape of the rows.
    pub format: DataFormat,
    /// Which tokens are supervised.
    pub supervise: Supervise,
    /// Tokens of a row at most.
    pub max_length: usize,
    /// Several rows in one sequence, each blind to the others.
    pub packing: bool,
    /// What rows of a micro-batch begin with in common is stored and computed once, with the same loss and gradients. Has
    /// an effect where `packing` has; not in training with LoRA dropout, which gives every row a mask of its own, nor on
    /// rows so long that their rotary frequencies depend on their length (dynamic and longrope scaling).
    pub share_prefixes: bool,
    /// A new order in each epoch.
    pub shuffle: bool,
    /// Which end of a row that is too long survives.
    pub truncation: Truncation,
    /// What happens to a row that is too long.
    pub overlong: Overlong,
    /// What happens to rows that cannot be used.
    #[serde(skip_serializing_if = "is_default_bad_rows")]
    pub bad_rows: BadRowPolicy,
    /// System message for chats that have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

impl Default for DataOptions {
    fn default() -> Self {
        DataOptions {
            train: Vec::new(),
            eval: EvalSource::None,
            format: DataFormat::default(),
            supervise: Supervise::default(),
            max_length: 1024,
            packing: true,
            share_prefixes: true,
            shuffle: true,
            truncation: Truncation::default(),
            overlong: Overlong::default(),
            bad_rows: BadRowPolicy::default(),
            system: None,
        }
    }
}

/// Rows to evaluate on.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum EvalSource {
    /// None.
    #[default]
    None,
    /// A share of the training rows, between 0 and 1, kept out of training.
    Share(f64),
    /// Files of their own.
    Files(Vec<String>),
}

impl Serialize for EvalSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            EvalSource::None => serializer.serialize_none(),
            EvalSource::Share(share) => serializer.serialize_f64(*share),
            EvalSource::Files(files) => files.serialize(serializer),
        }
    }
}

/// The section `train`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainOptions {
    /// Passes over the rows.
    pub epochs: usize,
    /// Stop after so many optimizer steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<usize>,
    /// Tokens of an optimizer step: whole rows until the budget is reached.
    pub batch_tokens: usize,
    /// Rows of an optimizer step, instead of a token budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_rows: Option<usize>,
    /// Tokens of a packed micro-batch at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// Peak learning rate; by method if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Warmup: a share of the steps below 1, a number of steps from 1 on.
    pub warmup: f64,
    /// The first step of the warmup has a learning rate of 0, as in transformers and TRL. Otherwise it has its share
    /// of the peak, so that no step is without effect.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub warmup_from_zero: bool,
    /// Where the schedule ends, as a share of the peak.
    pub min_lr_ratio: f64,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Type of the matrices of full fine-tuning in memory.
    #[serde(skip_serializing_if = "is_default_weights")]
    pub weights: WeightKind,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradient norm above which gradients are scaled down; 0 turns clipping off.
    pub max_grad_norm: f64,
    /// What the losses of a step are divided by.
    pub loss_normalization: LossNormalization,
    /// Source of every random choice.
    pub seed: u64,
    /// Inputs of matrix products.
    pub precision: FloatKind,
    /// Threads; those of the machine if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// Folder of an adapter to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_adapter: Option<String>,
    /// Steps between evaluations; at the end of each epoch if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<usize>,
    /// Steps between lines on a stderr that is no terminal; `metrics.jsonl` has every step.
    pub log_every: usize,
    /// What is kept for the backward pass.
    pub activations: ActivationPolicy,
    /// How that waits.
    pub activation_storage: ActivationStorage,
    /// Whether the base stays in its file.
    pub stream: StreamPolicy,
    /// Bytes that the run may use; what the machine has if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        TrainOptions {
            epochs: 1,
            max_steps: None,
            batch_tokens: 4096,
            batch_rows: None,
            micro_batch_tokens: None,
            lr: None,
            schedule: Schedule::default(),
            warmup: 0.03,
            warmup_from_zero: false,
            min_lr_ratio: 0.0,
            optimizer: OptimizerKind::default(),
            weights: WeightKind::default(),
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            loss_normalization: LossNormalization::default(),
            seed: 0,
            precision: FloatKind::default(),
            threads: None,
            init_adapter: None,
            eval_every: None,
            log_every: 10,
            activations: ActivationPolicy::default(),
            activation_storage: ActivationStorage::default(),
            stream: StreamPolicy::default(),
            memory: None,
        }
    }
}

impl TrainOptions {
    /// Warmup in steps of a run of `total` steps.
    pub fn warmup_steps(&self, total: usize) -> usize {
        if self.warmup < 1.0 { (self.warmup * total as f64).ceil() as usize } else { self.warmup as usize }
    }
}

/// The section `output`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputOptions {
    /// Folder of the run.
    pub dir: String,
    /// Steps between checkpoints; only at the end if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<usize>,
    /// Checkpoints that are kept; older ones are deleted.
    pub keep_checkpoints: usize,
}

impl Default for OutputOptions {
    fn default() -> Self {
        OutputOptions { dir: "runs/run".to_string(), checkpoint_every: None, keep_checkpoints: 2 }
    }
}
