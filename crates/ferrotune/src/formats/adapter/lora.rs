//! The options of a LoRA adapter: what `adapter_config.json` and the section `method` of a run file have in common.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::options::{choice, pairs, section};

/// The word for every linear but the head.
const ALL_LINEAR: &str = "all-linear";

/// A choice of modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Choice", into = "Choice")]
pub enum Targets {
    /// Every linear but the output head.
    AllLinear,
    /// Modules whose path is one of these or ends with `.` and one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression.
    Regex(String),
}

/// [`Targets`] in files.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Choice {
    Text(String),
    Names(Vec<String>),
}

impl From<Choice> for Targets {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Text(word) if word == ALL_LINEAR => Targets::AllLinear,
            Choice::Text(pattern) => Targets::Regex(pattern),
            Choice::Names(names) => Targets::Names(names),
        }
    }
}

impl From<Targets> for Choice {
    fn from(targets: Targets) -> Self {
        match targets {
            Targets::AllLinear => Choice::Text(ALL_LINEAR.to_string()),
            Targets::Regex(pattern) => Choice::Text(pattern),
            Targets::Names(names) => Choice::Names(names),
        }
    }
}

impl JsonSchema for Targets {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Targets".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "items": {"type": "string"},
            "x-expected": "all-linear, a list of names or a regular expression",
        })
    }
}

impl std::fmt::Display for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Targets::AllLinear => f.write_str(ALL_LINEAR),
            Targets::Names(names) => f.write_str(&names.join(", ")),
            Targets::Regex(pattern) => f.write_str(pattern),
        }
    }
}

choice! {
    /// The kind of an adapter; PEFT's `peft_type` in lower case.
    pub enum AdapterKind {
        /// Low-rank branches `s B A` (Hu et al. 2021).
        #[default]
        Lora = "lora" | "LORA",
    }
}

choice! {
    /// How the matrices of a branch start.
    pub enum Init {
        /// A is uniform in `±1/sqrt(inputs)`, as a linear layer starts (Kaiming uniform with `a = sqrt(5)`); B is zero.
        #[default]
        Kaiming = "kaiming" | "true" | "default",
        /// A is normal with deviation 1/rank; B is zero.
        Gaussian = "gaussian",
        /// The largest singular values of the weight, taken out of it (Meng et al. 2024).
        Pissa = "pissa",
        /// The first part of the weight's QR factors, taken out of it (Büyükakyüz 2024).
        Olora = "olora",
        /// The largest singular values of what quantizing the weight to NF4 loses; the weight is quantized (Li et al. 2023).
        Loftq = "loftq",
    }
}

impl Init {
    /// Whether the frozen weight is another one than the checkpoint's.
    pub(crate) fn changes_base(self) -> bool {
        matches!(self, Init::Pissa | Init::Olora | Init::Loftq)
    }
}

choice! {
    /// Which biases of the model are trained beside the branches.
    pub enum TrainedBiases {
        /// None.
        #[default]
        None = "none",
        /// Every one.
        All = "all",
        /// The biases of the targeted linears.
        LoraOnly = "lora_only",
    }
}

section! {
    /// All that decides which tensors a LoRA adapter has and what they compute.
    pub struct LoraConfig {
        /// Kind of the adapter.
        #[schemars(extend("x-rare" = true, "x-peft" = "peft_type"))]
        pub adapter: AdapterKind = AdapterKind::Lora,
        /// Rank of the branches: the rows of A and the columns of B.
        #[schemars(range(min = 1), extend("x-peft" = "r"))]
        pub rank: usize = 16,
        /// A branch is scaled by alpha / rank.
        #[schemars(extend("exclusiveMinimum" = 0, "x-peft" = "lora_alpha"))]
        pub alpha: f64 = 32.0,
        /// Share of a branch's inputs that is dropped in training.
        #[schemars(range(min = 0), extend("exclusiveMaximum" = 1, "x-peft" = "lora_dropout"))]
        pub dropout: f64 = 0.0,
        /// Modules that get a branch: `all-linear` is every linear but the head; a list has names of modules, whole or the
        /// end of a path; a text is a regular expression of the whole path. In a model for pictures and text all of them
        /// choose in the text part alone.
        #[schemars(extend("x-peft" = "target_modules"))]
        pub targets: Targets = Targets::AllLinear,
        /// Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023).
        #[schemars(extend("x-peft" = "use_rslora"))]
        pub rslora: bool = false,
        /// How A and B start.
        #[schemars(extend("x-peft" = "init_lora_weights"))]
        pub init: Init = Init::Kaiming,
        /// Rounds of quantizing and decomposing of `init: loftq`.
        #[schemars(range(min = 1), extend("x-rare" = true, "x-peft" = null, "x-aliases" = ["loftq_iter"]))]
        pub loftq_iterations: usize = 1,
        /// DoRA: the rows of the adapted weight are scaled to trained lengths (Liu et al. 2024).
        #[schemars(extend("x-peft" = "use_dora"))]
        pub dora: bool = false,
        /// Train a bias of B too.
        #[schemars(extend("x-rare" = true, "x-peft-late" = true))]
        pub lora_bias: bool = false,
        /// Biases of the model that are trained too.
        pub bias: TrainedBiases = TrainedBiases::None,
        /// Targets that get no branch after all.
        #[schemars(extend("x-peft" = "exclude_modules", "x-peft-late" = true, "x-expected" = "a list of names or a regular expression"))]
        pub exclude: Option<Targets> = None,
        /// Numbers of the layers to which targets are limited; all layers if absent.
        #[schemars(extend("x-aliases" = ["layers"], "x-expected" = "a layer or a list of layers"))]
        pub layers_to_transform: Option<Vec<usize>> = None,
        /// Names of the list of layers in module paths, for `layers_to_transform`; any if empty.
        #[schemars(extend("x-expected" = "a name or a list of names"))]
        pub layers_pattern: Vec<String> = Vec::new(),
        /// Ranks of single modules by a pattern of the end of their path; the first that matches counts.
        #[serde(with = "pairs")]
        #[schemars(with = "BTreeMap<String, NonZeroUsize>")]
        pub rank_pattern: Vec<(String, usize)> = Vec::new(),
        /// Alphas of single modules by a pattern of the end of their path; the first that matches counts.
        #[serde(with = "pairs")]
        #[schemars(with = "BTreeMap<String, f64>", extend("additionalProperties" = {"type": "number", "exclusiveMinimum": 0}))]
        pub alpha_pattern: Vec<(String, f64)> = Vec::new(),
        /// Modules that are trained whole, and stored whole in the adapter.
        #[schemars(extend("x-expected" = "a name or a list of names"))]
        pub modules_to_save: Vec<String> = Vec::new(),
        /// Stacked weights of experts that get a branch for each expert, by the ends of their names, such as
        /// `experts.down_proj`. Where experts are stacked, `targets: all-linear` takes all of them.
        #[schemars(extend("x-peft-late" = true, "x-expected" = "a name or a list of names"))]
        pub target_parameters: Vec<String> = Vec::new(),
        /// Ids of tokens whose rows of the embedding are trained.
        #[schemars(extend("x-peft" = "trainable_token_indices", "x-peft-late" = true, "x-expected" = "a token's id or a list of ids"))]
        pub trainable_tokens: Vec<u32> = Vec::new(),
    }
}
