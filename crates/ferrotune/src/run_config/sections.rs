//! The sections of a run file but `method`: keys with their defaults, and the words that they take.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::values::{Bytes, EvalSource};
use crate::options::{choice, pairs, section};

/// Bytes that all kept bases take together, if nothing else is said.
pub(crate) const DEFAULT_CACHE_LIMIT: u64 = 64 << 30;

choice! {
    /// A floating-point type, or a choice left to the program.
    pub enum FloatKind {
        /// The program's choice.
        #[default]
        Auto = "auto",
        /// 32 bits.
        F32 = "f32" | "float32" | "fp32",
        /// bfloat16.
        Bf16 = "bf16" | "bfloat16",
    }
}

choice! {
    /// The form of embedding and head, which are kept apart from the quantized linears of the layers.
    pub enum TableKind {
        /// The form of the base file, or dense where the layers are.
        #[default]
        Auto = "auto",
        /// The form of the base file.
        Keep = "keep",
        /// bfloat16.
        Bf16 = "bf16" | "bfloat16",
        /// 4-bit normal float, in the blocks of `method.quant`.
        Nf4 = "nf4",
        /// 8-bit integers with a scale per row.
        Int8 = "int8",
    }
}

choice! {
    /// The shape of the rows.
    pub enum DataFormat {
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
        /// No rows: paths are folders of source code, and each file in them is a row.
        Code = "code",
    }
}

choice! {
    /// Which tokens are supervised.
    pub enum Supervise {
        /// What the assistant wrote, or the completion; all of a plain text.
        #[default]
        Assistant = "assistant" | "completion",
        /// Every token.
        All = "all",
    }
}

choice! {
    /// What happens to what an assistant thought before its answer.
    pub enum Reasoning {
        /// It is trained as the rest of the answer.
        #[default]
        Keep = "keep",
        /// It stays in the text and is not supervised.
        Mask = "mask",
        /// It is taken out of the messages.
        Drop = "drop",
    }
}

choice! {
    /// Which end of a row that is too long survives.
    pub enum Truncation {
        /// The start.
        #[default]
        KeepStart = "keep_start",
        /// The end.
        KeepEnd = "keep_end",
    }
}

choice! {
    /// What happens to a row that is too long.
    pub enum Overlong {
        /// The row is cut.
        #[default]
        Truncate = "truncate",
        /// The row is left out.
        Drop = "drop",
        /// A text becomes several rows, each of which begins with the last token of the one before. Other rows are cut.
        Split = "split",
    }
}

choice! {
    /// What happens to rows that cannot be used.
    pub enum BadRowPolicy {
        /// They are told together, and nothing is done.
        #[default]
        Fail = "fail",
        /// They are left out and counted.
        Skip = "skip",
    }
}

choice! {
    /// The course of the learning rate after the warm-up: shapes of transformers' `get_scheduler`.
    pub enum Shape {
        /// Down to the minimum in a straight line.
        #[default]
        Linear = "linear",
        /// Down to the minimum along half a cosine.
        Cosine = "cosine",
        /// Unchanged.
        Constant = "constant" | "constant_with_warmup",
    }
}

choice! {
    /// The optimizer.
    pub enum OptimizerKind {
        /// Adam with decoupled weight decay.
        #[default]
        Adamw = "adamw" | "adamw_torch",
        /// AdamW with moments in a file, whose memory the system may take.
        PagedAdamw = "paged_adamw" | "paged_adamw_32bit",
        /// AdamW with moments in 8 bits.
        Adamw8bit = "adamw8bit" | "adamw_8bit" | "adamw_bnb_8bit" | "paged_adamw_8bit",
    }
}

choice! {
    /// What is trained towards.
    pub enum ObjectiveKind {
        /// The next token of the supervised text: supervised fine-tuning.
        #[default]
        NextToken = "next_token" | "sft",
    }
}

choice! {
    /// In which type the matrices of full fine-tuning are in memory.
    pub enum WeightKind {
        /// 32 bits.
        #[default]
        F32 = "f32" | "float32" | "fp32",
        /// bfloat16, as products read them anyway; the f32 values that the optimizer changes are in a file, whose memory
        /// the system may take.
        Bf16 = "bf16" | "bfloat16",
    }
}

choice! {
    /// What the summed token losses of an optimizer step are divided by.
    pub enum LossNormalization {
        /// The tokens that are predicted: the mean over what was summed. transformers 5.23 does the same.
        #[default]
        Targets = "targets",
        /// The labels that are not -100 before they are shifted, so also the first token of an unmasked row, which
        /// nothing predicts: what the trainer of transformers did from 4.46 until its pull request 46204 of May 2026.
        /// Losses and gradients are smaller by `rows / labels`; for loss curves laid over each other.
        Labels = "labels",
    }
}

choice! {
    /// Which activations are kept for the backward pass.
    pub enum ActivationPolicy {
        /// The fastest that fits the memory budget.
        #[default]
        Auto = "auto",
        /// All.
        Keep = "keep",
        /// Only the activations that are expensive to compute again.
        Lean = "lean",
        /// Only the input of each layer.
        Recompute = "recompute",
    }
}

choice! {
    /// How activations wait for the backward pass.
    pub enum ActivationStorage {
        /// Unchanged.
        #[default]
        Exact = "exact",
        /// Most of them in 8 bits: half the memory, and gradients that are off by a little.
        Int8 = "int8",
    }
}

choice! {
    /// Whether a frozen base stays in its file, of which a few layers at a time are in memory.
    pub enum StreamPolicy {
        /// If the run does not fit the memory budget otherwise.
        #[default]
        Auto = "auto",
        /// Always.
        Always = "always",
        /// Never.
        Never = "never",
    }
}

section! {
    /// The base model.
    pub struct ModelOptions {
        /// A hub id, a folder or a `.gguf` file.
        #[schemars(
            example = "HuggingFaceTB/SmolLM2-135M-Instruct",
            extend("x-numbers" = false, "x-path" = "any", "x-aliases" = ["model_name_or_path"])
        )]
        pub base: String = String::new(),
        /// Branch, tag or commit on the hub; `main` if absent.
        #[schemars(extend("x-numbers" = false))]
        pub revision: Option<String> = None,
        /// Type in which a dense base is held.
        #[schemars(extend("x-aliases" = ["torch_dtype"]))]
        pub dtype: FloatKind = FloatKind::Auto,
        /// Form of embedding and head.
        #[schemars(extend("x-rare" = true))]
        pub embeddings: TableKind = TableKind::Auto,
        /// Keep a base that was quantized for the next start.
        #[schemars(extend("x-rare" = true, "x-numbers" = false))]
        pub cache: bool = true,
        /// What all kept bases may take on disk, as bytes or as a size such as `8GiB`; those not used for longest are
        /// removed.
        #[serde(deserialize_with = "Bytes::field")]
        #[schemars(with = "Bytes", extend("x-rare" = true, "x-numbers" = false))]
        pub cache_limit: u64 = DEFAULT_CACHE_LIMIT,
    }
}

section! {
    /// A source of rows beside others.
    pub struct SourceOptions {
        /// A file, a folder, a pattern or a data set of the hub.
        pub path: String = String::new(),
        /// Config of a data set of the hub; its default one if absent.
        #[schemars(extend("x-aliases" = ["name", "subset"]))]
        pub config: Option<String> = None,
        /// Split of a data set of the hub; `train` if absent.
        pub split: Option<String> = None,
        /// Branch, tag or commit of a data set of the hub; `main` if absent.
        pub revision: Option<String> = None,
        /// How often each row is taken in an epoch; a fraction takes a share of the rows.
        #[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1000))]
        pub weight: f64 = 1.0,
        /// Only the first rows.
        #[schemars(range(min = 1))]
        pub rows: Option<usize> = None,
        /// Shape of its rows; `data.format` if absent.
        pub format: DataFormat = DataFormat::Auto,
        /// Its columns that have other names; `data.columns` if absent.
        #[serde(with = "pairs")]
        #[schemars(with = "BTreeMap<String, String>")]
        pub columns: Vec<(String, String)> = Vec::new(),
        /// The files of this machine that the path stands for, where it is no path of this machine.
        #[serde(skip)]
        pub files: Vec<String> = Vec::new(),
    }
}

impl SourceOptions {
    /// The files, folder or pattern on this machine.
    pub(crate) fn paths(&self) -> Vec<&str> {
        match self.files.is_empty() {
            true => vec![&self.path],
            false => self.files.iter().map(String::as_str).collect(),
        }
    }

    /// Whether it has a key that only a data set of the hub has.
    pub(crate) fn of_the_hub(&self) -> bool {
        self.config.is_some() || self.split.is_some() || self.revision.is_some()
    }

    /// The path with revision, config and split, as one text that is read where a path is.
    #[must_use]
    pub fn name(&self) -> String {
        let split = self.split.as_deref().or(self.config.as_ref().map(|_| "train"));
        let parts = [("@", self.revision.as_deref()), (":", self.config.as_deref()), (":", split)];
        let parts = parts.into_iter().filter_map(|(sign, part)| Some([sign, part?]));
        std::iter::once(self.path.as_str()).chain(parts.flatten()).collect()
    }
}

section! {
    /// The rows, and which of their tokens are supervised.
    pub struct DataOptions {
        /// Rows: a file (JSON Lines, JSON, CSV, TSV, Parquet, text; also compressed), a folder, a pattern such as
        /// `logs/*.csv`, a data set of the hub (`owner/name`, `owner/name@revision:config:split` or
        /// `hf://datasets/owner/name/file.parquet`), or a list of these.
        #[schemars(
            example = "rows.jsonl",
            extend("x-numbers" = false, "x-path" = "rows", "x-expected" = "a file or a list of files")
        )]
        pub train: Vec<String> = Vec::new(),
        /// Rows beside those of `train`, a list of sources. Each has a `path` (as for `train`) and may have a `weight` (how
        /// often each row is taken in an epoch: 2 takes all twice, 0.25 a quarter of them), `rows` (only the first so
        /// many), `format` and `columns`; a data set of the hub also `config`, `split` and `revision`.
        #[schemars(extend(
            "x-numbers" = false, "x-path" = "rows", "x-rare" = true,
            "x-expected" = "a list of sources such as {path: logs.csv, weight: 0.5}"
        ))]
        pub sources: Vec<SourceOptions> = Vec::new(),
        /// Rows to evaluate on: a share of the training rows such as `5%` or `0.05`, which is kept out of training, or files
        /// and data sets as for `train`, such as `owner/name:test`.
        #[schemars(extend("x-numbers" = false, "x-path" = "rows"))]
        pub eval: EvalSource = EvalSource::None,
        /// Shape of the rows.
        pub format: DataFormat = DataFormat::Auto,
        /// Columns that have other names: what a column is (`messages`, `prompt`, `completion`, `instruction`, `input`,
        /// `output`, `system`, `text`, ...) and its name. Then no other column decides the shape.
        #[serde(with = "pairs")]
        #[schemars(with = "BTreeMap<String, String>", extend(
            "x-aliases" = ["column_map"], "x-numbers" = false,
            "x-expected" = "a mapping such as {instruction: Frage, output: Antwort}"
        ))]
        pub columns: Vec<(String, String)> = Vec::new(),
        /// Which tokens are supervised.
        pub supervise: Supervise = Supervise::Assistant,
        /// Whether words of control tokens (`<|im_end|>`) in the data are text; if absent they are in messages of chats, and not in
        /// texts and completions, which may have been rendered already.
        #[schemars(extend("x-rare" = true))]
        pub split_special_tokens: Option<bool> = None,
        /// What happens to the assistant's thoughts (`reasoning_content`, `<think>...</think>`).
        #[schemars(extend("x-rare" = true))]
        pub reasoning: Reasoning = Reasoning::Keep,
        /// Length of a row at most.
        #[schemars(range(min = 2), extend("x-unit" = "tokens", "x-aliases" = ["max_seq_length", "cutoff_len"]))]
        pub max_length: usize = 1024,
        /// Several rows in one sequence, each blind to the others.
        pub packing: bool = true,
        /// What rows of a micro-batch begin with in common is stored and computed once, with the same loss and gradients.
        /// Has an effect where `packing` has; not in training with LoRA dropout, which gives every row a mask of its own,
        /// nor on rows so long that their rotary frequencies depend on their length (dynamic and longrope scaling).
        pub share_prefixes: bool = true,
        /// Another order of the rows in each epoch.
        pub shuffle: bool = true,
        /// The step with the largest micro-batch is the first one: a run that does not fit into memory says so at once.
        #[schemars(extend("x-rare" = true))]
        pub longest_first: bool = false,
        /// Which end of a row that is too long survives.
        #[schemars(extend("x-aliases" = ["truncation_mode"]))]
        pub truncation: Truncation = Truncation::KeepStart,
        /// What happens to a row that is too long.
        pub overlong: Overlong = Overlong::Truncate,
        /// Rows are read from the beginning of the files only until `train.max_steps` have enough of them, and shuffled among
        /// themselves: training on very large data starts at once.
        #[schemars(extend("x-rare" = true))]
        pub streaming: bool = false,
        /// Tokens of data of some size are kept on disk for the next start with the same data, model and options.
        #[schemars(extend("x-rare" = true, "x-numbers" = false))]
        pub cache: bool = true,
        /// Share of the source files (`format: code`) that are trained in fill-in-the-middle order, with the tokens that the
        /// model has for it; 0.5 is usual.
        #[schemars(range(min = 0, max = 1))]
        pub fim_rate: f64 = 0.0,
        /// Share of those in which the suffix stands before prefix and middle (SPM) and not between them (PSM); if absent
        /// as the model's family was trained: 0.5 for StarCoder and its like, 0 for others.
        #[schemars(range(min = 0, max = 1), extend("x-rare" = true))]
        pub fim_spm_rate: Option<f64> = None,
        /// What happens to rows that cannot be used.
        #[schemars(extend("x-rare" = true, "x-numbers" = false))]
        pub bad_rows: BadRowPolicy = BadRowPolicy::Fail,
        /// Chat template in the place of the model's: the name of another one that the model has (`tool_use`, ...), a `.jinja`
        /// file, or the template itself. It is written into the result, and answers of what was trained are rendered
        /// with it too.
        #[schemars(extend("x-aliases" = ["chat_template"], "x-path" = "rows", "x-rare" = true))]
        pub template: Option<String> = None,
        /// Variables of the chat template for all rows, such as `enable_thinking: false`; a row's own
        /// `chat_template_kwargs` count more. Answers of what was trained are rendered with them too.
        #[schemars(with = "BTreeMap<String, Value>", extend(
            "x-aliases" = ["chat_template_kwargs"], "x-expected" = "a mapping such as {enable_thinking: false}"
        ))]
        pub template_variables: Map<String, Value> = Map::new(),
        /// System message for chats that have none.
        #[schemars(extend("x-aliases" = ["system_prompt"]))]
        pub system: Option<String> = None,
    }
}

impl DataOptions {
    /// Whether no rows are named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.train.is_empty() && self.sources.is_empty()
    }

    /// The paths of all rows to train on.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        self.train.iter().cloned().chain(self.sources.iter().map(SourceOptions::name)).collect()
    }
}

section! {
    /// Steps, optimizer, precision, memory.
    pub struct TrainOptions {
        /// Passes over the rows.
        #[schemars(range(min = 1), extend("x-aliases" = ["num_train_epochs"]))]
        pub epochs: usize = 1,
        /// Stop after so many optimizer steps; at the end of the last epoch if absent.
        #[schemars(range(min = 1), extend("x-unit" = "steps"))]
        pub max_steps: Option<usize> = None,
        /// Size of an optimizer step: whole rows until so many tokens are reached.
        #[schemars(range(min = 1), extend("x-unit" = "tokens"))]
        pub batch_tokens: usize = 4096,
        /// Size of an optimizer step in rows, in the place of `batch_tokens`.
        #[schemars(range(min = 1), extend("x-unit" = "rows", "x-aliases" = ["batch_size"]))]
        pub batch_rows: Option<usize> = None,
        /// Size of a packed micro-batch at most; that of a step, or of the longest row, if absent.
        #[schemars(range(min = 1), extend("x-unit" = "tokens"))]
        pub micro_batch_tokens: Option<usize> = None,
        /// Peak learning rate; 2e-4 for `method.kind: lora` and `qlora`, 1e-5 for `full` if absent.
        #[schemars(extend("exclusiveMinimum" = 0, "x-aliases" = ["learning_rate"]))]
        pub lr: Option<f64> = None,
        /// Course of the learning rate after the warm-up.
        #[schemars(extend("x-aliases" = ["lr_scheduler_type"]))]
        pub schedule: Shape = Shape::Linear,
        /// Length of the warm-up: a share of all steps below 1, a number of steps from 1 on.
        #[schemars(range(min = 0), extend("x-aliases" = ["warmup_ratio", "warmup_steps"]))]
        pub warmup: f64 = 0.03,
        /// The first step of the warm-up has a learning rate of 0, as in transformers and TRL. Otherwise it has its share
        /// of the peak, so that no step is without effect.
        #[schemars(extend("x-rare" = true))]
        pub warmup_from_zero: bool = false,
        /// Where the schedule ends, as a share of the peak.
        #[schemars(range(min = 0, max = 1))]
        pub min_lr_ratio: f64 = 0.0,
        /// What is trained towards.
        #[schemars(extend("x-rare" = true))]
        pub objective: ObjectiveKind = ObjectiveKind::NextToken,
        /// The optimizer.
        #[schemars(extend("x-aliases" = ["optim"]))]
        pub optimizer: OptimizerKind = OptimizerKind::Adamw,
        /// Type of the matrices of full fine-tuning in memory.
        #[schemars(extend("x-rare" = true, "x-numbers" = false))]
        pub weights: WeightKind = WeightKind::F32,
        /// Decay of the first and of the second moment.
        #[schemars(extend(
            "items" = {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            "x-expected" = "two numbers from 0 up to, but not, 1"
        ))]
        pub betas: [f64; 2] = [0.9, 0.999],
        /// Added to the root of the second moment.
        #[schemars(extend("exclusiveMinimum" = 0, "x-aliases" = ["adam_epsilon"]))]
        pub eps: f64 = 1e-8,
        /// Decoupled weight decay.
        #[schemars(range(min = 0))]
        pub weight_decay: f64 = 0.0,
        /// Gradient norm above which gradients are scaled down; 0 turns clipping off.
        #[schemars(range(min = 0))]
        pub max_grad_norm: f64 = 1.0,
        /// What the summed token losses of an optimizer step are divided by.
        pub loss_normalization: LossNormalization = LossNormalization::Targets,
        /// Source of every random choice.
        pub seed: u64 = 0,
        /// Type of the inputs of matrix products; `auto` is bf16 where the CPU multiplies it.
        pub precision: FloatKind = FloatKind::Auto,
        /// Number of threads; as many as the machine has cores if absent.
        #[schemars(range(min = 1), extend("x-unit" = "threads", "x-numbers" = false))]
        pub threads: Option<usize> = None,
        /// Folder of an adapter to start from. It keeps its options: keys of `method` that it decides are left out.
        #[schemars(extend("x-path" = "any"))]
        pub init_adapter: Option<String> = None,
        /// Steps between evaluations on `data.eval`; at the end of each epoch if absent.
        #[schemars(range(min = 1), extend("x-unit" = "steps", "x-numbers" = false, "x-aliases" = ["eval_steps"]))]
        pub eval_every: Option<usize> = None,
        /// Steps between lines on a stderr that is no terminal; `metrics.jsonl` has every step.
        #[schemars(range(min = 1), extend("x-unit" = "steps", "x-numbers" = false, "x-aliases" = ["logging_steps"]))]
        pub log_every: usize = 10,
        /// Which activations are kept for the backward pass.
        #[schemars(extend("x-numbers" = false))]
        pub activations: ActivationPolicy = ActivationPolicy::Auto,
        /// How activations wait for the backward pass.
        pub activation_storage: ActivationStorage = ActivationStorage::Exact,
        /// Whether a frozen base stays in its file, of which a few layers at a time are in memory.
        #[schemars(extend("x-numbers" = false))]
        pub stream: StreamPolicy = StreamPolicy::Auto,
        /// What the run may use of memory, as bytes or as a size such as `8GiB`; what the machine has if absent.
        #[serde(deserialize_with = "Bytes::field")]
        #[schemars(with = "Option<Bytes>", extend("x-numbers" = false))]
        pub memory: Option<u64> = None,
    }
}

impl TrainOptions {
    /// Warmup in steps of a run of `total` steps.
    pub fn warmup_steps(&self, total: usize) -> usize {
        if self.warmup < 1.0 { (self.warmup * total as f64).ceil() as usize } else { self.warmup as usize }
    }
}

section! {
    /// Where results go.
    pub struct OutputOptions {
        /// Folder of the run.
        #[schemars(
            length(min = 1),
            extend("x-numbers" = false, "x-path" = "any", "x-expected" = "a folder", "x-aliases" = ["output_dir"])
        )]
        pub dir: String = "runs/run".to_string(),
        /// Steps between checkpoints; only at the end if absent.
        #[schemars(range(min = 1), extend("x-unit" = "steps", "x-numbers" = false, "x-aliases" = ["save_steps"]))]
        pub checkpoint_every: Option<usize> = None,
        /// Checkpoints that are kept; older ones are deleted.
        #[schemars(
            range(min = 1),
            extend("x-unit" = "checkpoints", "x-numbers" = false, "x-aliases" = ["save_total_limit"])
        )]
        pub keep_checkpoints: usize = 2,
    }
}
