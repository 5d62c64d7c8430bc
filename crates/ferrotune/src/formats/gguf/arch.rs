//! The architectures of GGUF files: names of their tensors, and what the converter changed in the values.
//!
//! Names are those of gguf-py's `constants.py`; what stands for which tensor of a Hugging Face folder, and which
//! tensors were changed on the way, is as in llama.cpp's `convert_hf_to_gguf.py`.

use std::collections::BTreeSet;

use super::architectures::ALL;
use super::extras::Extras;

/// How a file of one `general.architecture` differs from a Hugging Face folder.
pub(super) struct Arch {
    /// Value of `general.architecture` and prefix of the architecture's keys.
    pub(super) name: &'static str,
    /// The family that computes it.
    pub(super) model_type: &'static str,
    /// Further families whose models are written as this architecture.
    pub(super) also: &'static [&'static str],
    /// What the `config.json` of a merged model calls the class.
    pub(super) class: &'static str,
    /// Whether the rows of q and k have the two halves of each head interleaved, as Meta's rotation reads them.
    pub(super) interleaved: bool,
    /// Whether norms are stored as `1 + w`.
    pub(super) plus_one: bool,
    /// Whether it has the gated delta rule, whose decays are stored as `-exp(A_log)`.
    pub(super) decays: bool,
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
    pub(super) modules: &'static [Names],
    /// Tensors of a layer whose whole names differ.
    pub(super) tensors: Names,
    /// What only this architecture's configuration has.
    pub(super) extras: Extras,
}

/// Names in the file and in the folder. A `*` in the folder's stands for the number of a row, or of an expert, of the one
/// tensor in the file.
pub(super) type Names = &'static [(&'static str, &'static str)];

/// The values of `general.architecture` that can be trained, in one line.
pub(super) fn supported() -> String {
    let names: BTreeSet<&str> = ALL.iter().map(|arch| arch.name).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// The architecture of this name, with or without experts.
pub(super) fn find(name: &str, experts: bool) -> Option<&'static Arch> {
    ALL.iter().find(|arch| arch.name == name && arch.has_experts() == experts)
}

/// Whether files of this family are read.
pub(in super::super) fn reads(model_type: &str) -> bool {
    ALL.iter().any(|arch| arch.model_type == model_type || arch.also.contains(&model_type))
}

impl Arch {
    /// Whether it is that of a mixture of experts.
    pub(super) fn has_experts(&self) -> bool {
        self.modules.iter().copied().flatten().any(|(own, _)| *own == "ffn_gate_exps")
    }

    /// The Hugging Face name of a tensor; see [`Names`] for a `*` in it.
    pub(super) fn hf_name(&self, name: &str) -> Option<String> {
        let in_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        if let Some((layer, part)) = in_layer
            && let Some((_, whole)) = self.tensors.iter().find(|(own, _)| *own == part)
        {
            return Some(format!("model.layers.{}.{whole}", layer.parse::<u32>().ok()?));
        }
        let (stem, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
        let module = match stem {
            "token_embd" => "model.embed_tokens".into(),
            "output_norm" => "model.norm".into(),
            // LFM2's converter has called its last norm so from the beginning.
            "token_embd_norm" => "model.embedding_norm".into(),
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
        let norm = hf_name.ends_with("norm.weight") && !hf_name.ends_with("linear_attn.norm.weight");
        if self.plus_one && norm { 1.0 } else { 0.0 }
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
        let computed = ALL.iter().flat_map(|arch| [&[arch.model_type], arch.also].concat());
        assert!(computed.map(families::find).all(|family| family.is_some()));
    }

    #[test]
    fn names_follow_the_architecture() {
        let name = |arch: &str, own: &str| find(arch, false).unwrap().hf_name(own);
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
