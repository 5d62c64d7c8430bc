//! What a decoder-only network computes, in flat parameters: the same description for every family.

use ferrotune_kernels::ops::activation::Activation;
use ferrotune_kernels::ops::norm::NormOp;
use ferrotune_kernels::ops::rms_norm;
use ferrotune_kernels::ops::softmax_xent::Logits;

use super::config::{ModelConfig, RopeScaling};
use crate::{Error, Result};

/// A decoder-only network, in flat parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Vocabulary `V`.
    pub vocab: usize,
    /// Hidden size `D`.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Query heads `H`.
    pub heads: usize,
    /// Key and value heads `G`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// MLP width `F`.
    pub ffn: usize,
    /// What the norms compute.
    pub norm: &'static dyn NormOp,
    /// Epsilon of the norms.
    pub norm_eps: f32,
    /// Where a layer has norms.
    pub norms: NormPlaces,
    /// Norms of q and k before the rotation.
    pub qk_norm: QkNorm,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of o.
    pub o_bias: bool,
    /// Biases of the MLP.
    pub mlp_bias: bool,
    /// q, k, v in one matrix, and gate and up in another.
    pub fused: bool,
    /// Shape of the MLP.
    pub mlp: MlpKind,
    /// Experts in the place of the MLP.
    pub experts: Option<Experts>,
    /// Activation of MLP or experts.
    pub activation: Activation,
    /// Sliding window of each layer.
    pub windows: Vec<Option<usize>>,
    /// The rotary embeddings that layers use.
    pub ropes: Vec<Rope>,
    /// Which of them each layer uses; `None` for none.
    pub rope_of_layer: Vec<Option<usize>>,
    /// Factor of the attention scores.
    pub score_scale: f32,
    /// Soft cap of the attention scores.
    pub score_cap: Option<f32>,
    /// Factor of the embeddings.
    pub embed_scale: f32,
    /// Factor of what a layer adds to the residual stream.
    pub residual_scale: f32,
    /// Factor and soft cap of the logits.
    pub logits: Logits,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// Where a layer has norms, by the checkpoints' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlaces {
    /// `input_layernorm` before the attention, `post_attention_layernorm` before the MLP.
    Before,
    /// `input_layernorm` and `post_attention_layernorm` around the attention, `pre_feedforward_layernorm` and
    /// `post_feedforward_layernorm` around the MLP.
    Around,
    /// `post_attention_layernorm` after the attention, `post_feedforward_layernorm` after the MLP.
    After,
    /// `input_layernorm` before both, which read the same input.
    Parallel,
}

/// Norms of q and k.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// `q_norm` and `k_norm` of each head, one weight for all.
    Head,
    /// `q_norm` and `k_norm` over all heads together.
    Whole,
    /// `q_layernorm.norms.N` and `k_layernorm.norms.N`: a layer norm without bias for each head.
    OwnLayer,
}

/// Shape of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down_proj(act(gate_proj(x)) * up_proj(x))`.
    Gated,
    /// `c_proj(act(c_fc(x)))`.
    Plain,
}

/// Experts of the layers that have some.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Experts `E` of a layer.
    pub count: usize,
    /// Experts of a token.
    pub per_token: usize,
    /// Width of an expert.
    pub ffn: usize,
    /// Whether the weights of a token's experts are made to sum to 1.
    pub normalise: bool,
    /// Whether each layer has experts; an MLP if not.
    pub layers: Vec<bool>,
    /// The module around router and experts in files, such as `mlp`.
    pub module: &'static str,
    /// Names of gate, up and down of an expert in files.
    pub names: [&'static str; 3],
}

/// Rotary embeddings.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies.
    pub scaling: RopeScaling,
    /// Elements of a head that are rotated, from its start.
    pub dims: usize,
}

impl Experts {
    /// Refuses more experts for a token than there are.
    pub(crate) fn check(&self, c: &ModelConfig) -> Result<()> {
        if self.per_token <= self.count {
            return Ok(());
        }
        let problem = format!("`num_experts_per_tok`: {} of {} experts", self.per_token, self.count);
        Err(Error::file(&c.path, problem))
    }
}

impl Architecture {
    /// Name and shape of a linear that every layer has, by whose storage the others are judged.
    pub(crate) fn probe(&self) -> (&'static str, usize, usize) {
        match self.mlp {
            _ if self.experts.is_some() => {
                ("model.layers.0.self_attn.o_proj.weight", self.hidden, self.heads * self.head_dim)
            }
            MlpKind::Gated if self.fused => {
                ("model.layers.0.mlp.gate_up_proj.weight", 2 * self.ffn, self.hidden)
            }
            MlpKind::Gated => ("model.layers.0.mlp.up_proj.weight", self.ffn, self.hidden),
            MlpKind::Plain => ("model.layers.0.mlp.c_fc.weight", self.ffn, self.hidden),
        }
    }

    /// The experts of a layer, if it has some.
    pub(crate) fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| e.layers[layer])
    }

    /// The most linears that the layers can have.
    pub(crate) fn linear_count(&self) -> usize {
        (0..self.layers).map(|i| 4 + 3 * self.experts_of(i).map_or(1, |e| e.count)).sum()
    }

    /// Values of the linears of all layers.
    pub fn linear_elements(&self) -> usize {
        (0..self.layers).map(|i| self.layer_elements(i)).sum()
    }

    /// Values of the linears of a layer.
    pub(crate) fn layer_elements(&self, layer: usize) -> usize {
        self.layer_with(layer, self.experts.as_ref().map_or(0, |e| e.count))
    }

    /// Values of the linears of all layers that a token is multiplied with.
    pub(crate) fn active_elements(&self) -> usize {
        let experts = self.experts.as_ref().map_or(0, |e| e.per_token);
        (0..self.layers).map(|i| self.layer_with(i, experts)).sum()
    }

    fn layer_with(&self, layer: usize, experts: usize) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let attention = 2 * (q + kv) * self.hidden;
        let parts = if self.mlp == MlpKind::Plain { 2 } else { 3 };
        attention
            + match self.experts_of(layer) {
                Some(e) => self.hidden * (e.count + 3 * experts * e.ffn),
                None => parts * self.ffn * self.hidden,
            }
    }

    /// Values of the largest matrix, whatever is stored together.
    pub(crate) fn largest_matrix(&self) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let expert = self.experts.as_ref().map_or(0, |e| 2 * e.ffn);
        self.hidden * self.vocab.max(2 * self.ffn).max(q + 2 * kv).max(expert)
    }

    /// Values that the activation reads for a token, in the widest layer.
    pub(crate) fn hidden_width(&self) -> usize {
        let parts = if self.mlp == MlpKind::Plain { 1 } else { 2 };
        match &self.experts {
            Some(e) if e.layers.iter().all(|l| *l) => 2 * e.per_token * e.ffn,
            Some(e) => (2 * e.per_token * e.ffn).max(parts * self.ffn),
            None => parts * self.ffn,
        }
    }

    /// The network that most families vary: norms before, SwiGLU, one rotation for all layers, no windows.
    pub(crate) fn common(c: &ModelConfig) -> Self {
        Architecture {
            vocab: c.vocab_size,
            hidden: c.hidden_size,
            layers: c.num_hidden_layers,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            ffn: c.intermediate_size,
            norm: rms_norm::RMS,
            norm_eps: c.norm_eps as f32,
            norms: NormPlaces::Before,
            qk_norm: QkNorm::None,
            qkv_bias: c.attention_bias,
            o_bias: c.attention_bias,
            mlp_bias: c.mlp_bias,
            fused: false,
            mlp: MlpKind::Gated,
            experts: None,
            activation: c.hidden_act,
            windows: vec![None; c.num_hidden_layers],
            ropes: vec![rope(c, 10_000.0, 1.0)],
            rope_of_layer: vec![Some(0); c.num_hidden_layers],
            score_scale: 1.0 / (c.head_dim as f32).sqrt(),
            score_cap: None,
            embed_scale: 1.0,
            residual_scale: 1.0,
            logits: Logits::default(),
            tied: c.tie_word_embeddings.unwrap_or(false),
        }
    }
}

/// The rotary embeddings of all layers, with the family's defaults for base and rotated share.
pub(crate) fn rope(c: &ModelConfig, theta: f64, partial: f64) -> Rope {
    let dims = (c.head_dim as f64 * c.rope.partial.unwrap_or(partial)) as usize;
    Rope { theta: c.rope.theta.unwrap_or(theta), scaling: c.rope.scaling.clone(), dims }
}
