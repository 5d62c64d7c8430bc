//! The section `method`: what is trained, and in which form the base is kept.

use serde::{Serialize, Serializer};

use super::layers::Choice;
use super::options::choices;

/// A choice of modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every linear but the output head.
    AllLinear,
    /// Modules whose path is one of these or ends with `.` and one of these.
    Names(Vec<String>),
    /// Modules whose whole path matches this regular expression.
    Regex(String),
}

choices! {
    /// What is trained.
    MethodKind {
        /// Every parameter.
        Full = "full",
        /// Low-rank matrices beside dense frozen weights.
        #[default]
        Lora = "lora",
        /// Low-rank matrices beside quantized frozen weights.
        Qlora = "qlora",
    }
}

impl MethodKind {
    /// The learning rate if the run file gives none.
    pub fn default_lr(self) -> f64 {
        match self {
            MethodKind::Full => 1e-5,
            MethodKind::Lora | MethodKind::Qlora => 2e-4,
        }
    }
}

choices! {
    /// How the matrices of a branch start.
    LoraInit {
        /// A uniform, as a linear layer starts; B zero.
        #[default]
        Kaiming = "kaiming" | "true" | "default",
        /// A normal with deviation 1/rank; B zero.
        Gaussian = "gaussian",
        /// The largest singular values of the weight, taken out of it.
        Pissa = "pissa",
        /// The first part of the weight's QR factors, taken out of it.
        Olora = "olora",
        /// What quantizing the weight to NF4 loses most of; the weight is quantized.
        Loftq = "loftq",
    }
}

choices! {
    /// Which biases of the model are trained beside the branches.
    BiasKind {
        /// None.
        #[default]
        None = "none",
        /// Every one.
        All = "all",
        /// Those of the targeted linears.
        LoraOnly = "lora_only",
    }
}

choices! {
    /// The form of a quantized frozen weight.
    QuantKind {
        /// `keep` for a base that is quantized already, else `nf4`.
        #[default]
        Auto = "auto",
        /// As the base file has it.
        Keep = "keep",
        /// 4-bit normal float.
        Nf4 = "nf4",
        /// 4-bit float.
        Fp4 = "fp4",
        /// 8-bit integers with a scale per row.
        Int8 = "int8",
    }
}

/// The section `method`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MethodOptions {
    /// What is trained.
    pub kind: MethodKind,
    /// Rank of a branch.
    pub rank: usize,
    /// The branch is scaled by alpha / rank.
    pub alpha: f64,
    /// Share of a branch's inputs that is dropped in training.
    pub dropout: f64,
    /// Which linear layers get a branch.
    pub targets: Targets,
    /// Scale by alpha / sqrt(rank) instead.
    pub rslora: bool,
    /// How A and B start.
    pub init: LoraInit,
    /// Iterations of `loftq`.
    #[serde(skip_serializing_if = "is_one")]
    pub loftq_iterations: usize,
    /// Rows of the adapted weight scaled to trained lengths.
    pub dora: bool,
    /// A bias of the branch's own.
    #[serde(skip_serializing_if = "is_false")]
    pub lora_bias: bool,
    /// Biases of the model that are trained too.
    pub bias: BiasKind,
    /// Targets that get no branch after all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Targets>,
    /// Layers to which targets are limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<Vec<usize>>,
    /// Names of the list of layers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers_pattern: Vec<String>,
    /// Ranks by pattern of the module's path; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_mapping")]
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas by pattern of the module's path; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_mapping")]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Modules that are trained whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub modules_to_save: Vec<String>,
    /// Stacked weights of experts that get branches, such as `experts.down_proj`; `all-linear` takes all of them.
    pub target_parameters: Vec<String>,
    /// Tokens whose rows of the embedding are trained.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trainable_tokens: Vec<u32>,
    /// LoRA+: the learning rate of B as a multiple of that of A.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f64>,
    /// LoRA+: the learning rate of the embedding's branch.
    #[serde(skip_serializing_if = "is_default_embedding_lr")]
    pub loraplus_lr_embedding: f64,
    /// Form of the frozen weights of `qlora`.
    pub quant: QuantOptions,
}

/// What LoRA+ gives the embedding's branch by default.
const EMBEDDING_LR: f64 = 1e-6;

// Settings that hardly anybody touches are written only when they are not the default.
fn is_one(n: &usize) -> bool {
    *n == 1
}

fn is_false(on: &bool) -> bool {
    !on
}

fn is_default_embedding_lr(lr: &f64) -> bool {
    *lr == EMBEDDING_LR
}

fn as_mapping<S: Serializer, T: Serialize>(
    pairs: &[(String, T)],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

impl Default for MethodOptions {
    fn default() -> Self {
        MethodOptions {
            kind: MethodKind::default(),
            rank: 16,
            alpha: 32.0,
            dropout: 0.0,
            targets: Targets::AllLinear,
            rslora: false,
            init: LoraInit::default(),
            loftq_iterations: 1,
            dora: false,
            lora_bias: false,
            bias: BiasKind::default(),
            exclude: None,
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            target_parameters: Vec::new(),
            trainable_tokens: Vec::new(),
            loraplus_lr_ratio: None,
            loraplus_lr_embedding: EMBEDDING_LR,
            quant: QuantOptions::default(),
        }
    }
}

/// The section `method.quant`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QuantOptions {
    /// The format.
    #[serde(rename = "type")]
    pub kind: QuantKind,
    /// Quantize the scales too.
    pub double: bool,
    /// Values that share a scale.
    pub block: usize,
}

impl Default for QuantOptions {
    fn default() -> Self {
        QuantOptions { kind: QuantKind::default(), double: true, block: 64 }
    }
}
