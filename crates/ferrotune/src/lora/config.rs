//! Constants of a LoRA adapter.

use super::targets::{Matcher, Targets};
use crate::Result;

/// How A and B start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// A uniform in `±1/sqrt(K)`, B zero: PEFT's `init_lora_weights=True` (Kaiming uniform with `a = sqrt(5)`).
    Kaiming,
    /// A normal with deviation `1/r`, B zero: PEFT's `"gaussian"`.
    Gaussian,
    /// The largest singular values of W; what is left of W becomes the frozen weight (Meng et al. 2024).
    Pissa,
    /// The first columns of Q and rows of R of `W = QR`; what is left becomes the frozen weight (Büyükakyüz 2024).
    Olora,
    /// The largest singular values of what quantization to NF4 loses of W, in so many alternating iterations; the
    /// quantized W becomes the frozen weight (Li et al. 2023).
    Loftq {
        /// Iterations, at least 1.
        iterations: usize,
    },
}

impl Init {
    /// Whether the frozen weight is another one than the checkpoint's.
    pub fn changes_base(self) -> bool {
        matches!(self, Init::Pissa | Init::Olora | Init::Loftq { .. })
    }
}

/// Which biases of the model are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainedBiases {
    /// None.
    None,
    /// Every one.
    All,
    /// Those of the targeted linears.
    LoraOnly,
}

/// All that decides which tensors an adapter has and what they compute.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank `r` of the branches.
    pub rank: usize,
    /// The branch is scaled by `alpha / r`, or `alpha / sqrt(r)` with rsLoRA.
    pub alpha: f64,
    /// Dropout on the branches' input.
    pub dropout: f32,
    /// Rank-stabilised scale (Kalajdzievski 2023).
    pub rslora: bool,
    /// Rows of `W + s B A` scaled to trained lengths (Liu et al. 2024).
    pub dora: bool,
    /// Whether B has a bias of its own.
    pub lora_bias: bool,
    /// Biases of the model that are trained too.
    pub bias: TrainedBiases,
    /// Start of A and B.
    pub init: Init,
    /// Which modules get a branch.
    pub targets: Targets,
    /// Which of them do not.
    pub exclude: Option<Targets>,
    /// Layers to which targets are limited.
    pub layers: Option<Vec<usize>>,
    /// Names of the list of layers; any if empty.
    pub layers_pattern: Vec<String>,
    /// Ranks by pattern of the module path; the first that matches counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas by pattern of the module path; the first that matches counts.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Stacked weights of experts that get a branch for each expert, by the ends of their names.
    pub target_parameters: Vec<String>,
    /// Modules that are trained whole.
    pub modules_to_save: Vec<String>,
    /// Tokens whose rows of the embedding are trained.
    pub trainable_tokens: Vec<u32>,
}

impl Default for LoraConfig {
    /// PEFT's defaults, with every linear as a target.
    fn default() -> Self {
        LoraConfig {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rslora: false,
            dora: false,
            lora_bias: false,
            bias: TrainedBiases::None,
            init: Init::Kaiming,
            targets: Targets::AllLinear,
            exclude: None,
            layers: None,
            layers_pattern: Vec::new(),
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            target_parameters: Vec::new(),
            modules_to_save: Vec::new(),
            trainable_tokens: Vec::new(),
        }
    }
}

impl LoraConfig {
    /// Rank and scale of the branch of each of the modules.
    ///
    /// A pattern key stands for the regular expression `(.*\.)?(KEY)$` on the module path. A rank of its own without an
    /// alpha of its own changes the scale.
    pub fn branches(&self, modules: &[&str]) -> Result<Vec<(usize, f32)>> {
        let ranks = Matcher::suffixes("method.rank_pattern", self.rank_pattern.iter().map(|(k, _)| k))?;
        let alphas = Matcher::suffixes("method.alpha_pattern", self.alpha_pattern.iter().map(|(k, _)| k))?;
        let one = |module: &str| {
            let rank = ranks.first(module)?.map_or(self.rank, |i| self.rank_pattern[i].1);
            let alpha = alphas.first(module)?.map_or(self.alpha, |i| self.alpha_pattern[i].1);
            Ok((rank, self.scale(rank, alpha)))
        };
        modules.iter().map(|m| one(m)).collect()
    }

    fn scale(&self, rank: usize, alpha: f64) -> f32 {
        let r = rank as f64;
        (alpha / if self.rslora { r.sqrt() } else { r }) as f32
    }
}
