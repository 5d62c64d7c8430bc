//! The architectures of GGUF files: names of their tensors, and what the converter changed in the values.
//!
//! Names are those of gguf-py's `constants.py`; what stands for which tensor of a Hugging Face folder, and which
//! tensors were changed on the way, is as in llama.cpp's `convert_hf_to_gguf.py`.

use super::extras::{self, Extras};

/// How a file of one `general.architecture` differs from a Hugging Face folder.
pub(super) struct Arch {
    /// Value of `general.architecture` and prefix of the architecture's keys.
    pub(super) name: &'static str,
    /// The family that computes it.
    pub(super) model_type: &'static str,
    /// What the `config.json` of a merged model calls the class.
    pub(super) class: &'static str,
    /// Whether the rows of q and k have the two halves of each head interleaved, as Meta's rotation reads them.
    pub(super) interleaved: bool,
    /// Whether norms are stored as `1 + w`.
    pub(super) plus_one: bool,
    /// Where `config.json` has the epsilon of the norms.
    pub(super) eps: &'static str,
    /// Whether a part of each head may be left unrotated.
    pub(super) partial: bool,
    /// The token that ends an answer of its chat models, where files name only the one that ends a text.
    pub(super) end_of_turn: Option<&'static str>,
    /// The added tokens behind which white space stays, where the family's SentencePiece tokenizer takes it behind all
    /// others; no key of a file says so.
    pub(super) rstrip_but: Option<&'static [&'static str]>,
    /// Modules of a layer, in the file and in the folder.
    modules: &'static [&'static [(&'static str, &'static str)]],
    /// What only this architecture's configuration has.
    pub(super) extras: Extras,
}

type Modules = &'static [(&'static str, &'static str)];

const ATTENTION: Modules = &[
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
];
const FUSED_ATTENTION: Modules = &[("attn_qkv", "self_attn.qkv_proj"), ("attn_output", "self_attn.o_proj")];
const GATED: Modules =
    &[("ffn_gate", "mlp.gate_proj"), ("ffn_up", "mlp.up_proj"), ("ffn_down", "mlp.down_proj")];
const FUSED_GATED: Modules = &[("ffn_up", "mlp.gate_up_proj"), ("ffn_down", "mlp.down_proj")];
const PLAIN: Modules = &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")];
const NORMS_BEFORE: Modules = &[("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
const NORMS_AROUND: Modules = &[
    ("attn_norm", "input_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];
const NORMS_AFTER: Modules =
    &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")];
const QK_NORMS: Modules = &[("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
/// One tensor with a row for each head, where the folder has a tensor for each.
const OWN_QK_NORMS: Modules =
    &[("attn_q_norm", "self_attn.q_layernorm.norms.*"), ("attn_k_norm", "self_attn.k_layernorm.norms.*")];

const LLAMA: Arch = Arch {
    name: "llama",
    model_type: "llama",
    class: "LlamaForCausalLM",
    interleaved: true,
    plus_one: false,
    eps: "rms_norm_eps",
    partial: false,
    end_of_turn: None,
    rstrip_but: None,
    modules: &[ATTENTION, GATED, NORMS_BEFORE],
    extras: extras::llama,
};

pub(super) const ALL: &[Arch] = &[
    LLAMA,
    Arch {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        interleaved: false,
        extras: extras::none,
        ..LLAMA
    },
    Arch {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        interleaved: false,
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_BEFORE],
        extras: extras::qwen3,
        ..LLAMA
    },
    Arch {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        interleaved: false,
        plus_one: true,
        end_of_turn: Some("<end_of_turn>"),
        modules: &[ATTENTION, GATED, NORMS_AROUND],
        extras: extras::gemma2,
        ..LLAMA
    },
    Arch {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        interleaved: false,
        plus_one: true,
        end_of_turn: Some("<end_of_turn>"),
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_AROUND],
        extras: extras::gemma3,
        ..LLAMA
    },
    Arch {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        interleaved: false,
        partial: true,
        end_of_turn: Some("<|end|>"),
        rstrip_but: Some(&["<unk>", "<s>", "<|endoftext|>"]),
        modules: &[FUSED_ATTENTION, FUSED_GATED, NORMS_BEFORE],
        extras: extras::phi3,
        ..LLAMA
    },
    Arch {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        extras: extras::smollm3,
        ..LLAMA
    },
    Arch {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        interleaved: false,
        modules: &[ATTENTION, QK_NORMS, GATED, NORMS_AFTER],
        extras: extras::olmo2,
        ..LLAMA
    },
    Arch {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        extras: extras::granite,
        ..LLAMA
    },
    Arch {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        interleaved: false,
        eps: "layer_norm_eps",
        partial: true,
        modules: &[ATTENTION, OWN_QK_NORMS, GATED, NORMS_BEFORE],
        extras: extras::stablelm,
        ..LLAMA
    },
    Arch {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        interleaved: false,
        eps: "norm_epsilon",
        modules: &[ATTENTION, PLAIN, NORMS_BEFORE],
        extras: extras::starcoder2,
        ..LLAMA
    },
];

/// Values of `general.architecture` that can be trained.
pub(super) fn supported() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|arch| arch.name)
}

pub(super) fn find(name: &str) -> Option<&'static Arch> {
    ALL.iter().find(|arch| arch.name == name)
}

impl Arch {
    /// The Hugging Face name of a tensor; a `*` in it stands for the number of a row.
    pub(super) fn hf_name(&self, name: &str) -> Option<String> {
        let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
        let module = match stem {
            "token_embd" => "model.embed_tokens".into(),
            "output_norm" => "model.norm".into(),
            "output" => "lm_head".into(),
            _ => {
                let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
                let layer: u32 = layer.parse().ok()?;
                let module = self.modules.iter().copied().flatten().find(|(own, _)| *own == part)?.1;
                format!("model.layers.{layer}.{module}")
            }
        };
        Some(format!("{module}.{kind}"))
    }

    /// What was added to the tensor of this Hugging Face name.
    pub(super) fn added(&self, hf_name: &str) -> f32 {
        if self.plus_one && hf_name.ends_with("norm.weight") { 1.0 } else { 0.0 }
    }

    /// The part of `config.json` that says how many heads the rows of this tensor are, if they are interleaved.
    pub(super) fn interleaves(&self, hf_name: &str) -> Option<Heads> {
        let stem = hf_name.rsplit_once('.').map_or(hf_name, |(stem, _)| stem);
        match stem.rsplit_once("self_attn.").map(|(_, module)| module) {
            Some("q_proj") if self.interleaved => Some(Heads::Query),
            Some("k_proj") if self.interleaved => Some(Heads::Key),
            _ => None,
        }
    }
}

/// Heads whose rows are interleaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heads {
    Query,
    Key,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::families;

    #[test]
    fn every_architecture_has_a_family() {
        assert!(ALL.iter().all(|arch| families::find(arch.model_type).is_some()));
    }

    #[test]
    fn names_follow_the_architecture() {
        let name = |arch: &str, own: &str| find(arch).unwrap().hf_name(own);
        let layer = |rest: &str| Some(format!("model.layers.3.{rest}"));
        assert_eq!(name("llama", "blk.3.ffn_norm.weight"), layer("post_attention_layernorm.weight"));
        assert_eq!(name("gemma2", "blk.3.ffn_norm.weight"), layer("pre_feedforward_layernorm.weight"));
        assert_eq!(name("phi3", "blk.3.ffn_up.weight"), layer("mlp.gate_up_proj.weight"));
        assert_eq!(name("starcoder2", "blk.3.ffn_up.bias"), layer("mlp.c_fc.bias"));
        assert_eq!(
            name("stablelm", "blk.3.attn_q_norm.weight"),
            layer("self_attn.q_layernorm.norms.*.weight")
        );
        assert_eq!(name("llama", "blk.3.attn_q_norm.weight"), None);
        assert_eq!(name("llama", "blk.x.attn_q.weight"), None);
        assert_eq!(name("llama", "output_norm.weight").unwrap(), "model.norm.weight");
    }
}
