//! The section `method`: what is trained, and in which form the base is kept.

use ferrotune_kernels::quant::nf4::BLOCKS;

use crate::formats::adapter::LoraConfig;
use crate::formats::quantized::QuantKind;
use crate::options::{choice, section};

choice! {
    /// What is trained.
    pub enum MethodKind {
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
    pub(crate) fn default_lr(self) -> f64 {
        match self {
            MethodKind::Full => 1e-5,
            MethodKind::Lora | MethodKind::Qlora => 2e-4,
        }
    }
}

section! {
    /// What is trained, and in which form the base is kept.
    pub struct MethodOptions {
        /// What is trained.
        pub kind: MethodKind = MethodKind::Lora,
        /// The options of the adapter, which are keys of the section itself.
        #[serde(flatten)]
        pub lora: LoraConfig = LoraConfig::default(),
        /// LoRA+: the learning rate of B as a multiple of that of A (Hayou et al. 2024); the same rate if absent.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub loraplus_lr_ratio: Option<f64> = None,
        /// LoRA+: the learning rate of the embedding's branch.
        #[schemars(range(min = 0), extend("x-rare" = true))]
        pub loraplus_lr_embedding: f64 = 1e-6,
        /// Form of the frozen weights of `kind: qlora`.
        pub quant: QuantOptions = QuantOptions::default(),
    }
}

section! {
    /// Form of the frozen weights of `kind: qlora`.
    pub struct QuantOptions {
        /// The format.
        #[serde(rename = "type")]
        #[schemars(extend("x-aliases" = ["bnb_4bit_quant_type"]))]
        pub kind: QuantKind = QuantKind::Auto,
        /// Quantize the scales of `nf4` and `fp4` too.
        #[schemars(extend("x-aliases" = ["bnb_4bit_use_double_quant"]))]
        pub double: bool = true,
        /// Values that share a scale in `nf4` and `fp4`.
        #[schemars(extend("enum" = BLOCKS, "x-unit" = "values", "x-aliases" = ["blocksize"]))]
        pub block: usize = 64,
    }
}
